// The page: what shows the state, and the columns that a narrow window hides.

import * as chat from "./chat.js";
import { find, trying } from "./dom.js";
import * as facts from "./facts.js";
import * as memory from "./memory.js";
import * as progress from "./progress.js";
import * as review from "./review.js";
import { look, watch } from "./watching.js";

watch(({ title }) => {
  if (title) document.title = find("title").textContent = title;
});
for (const part of [progress, chat, review, facts, memory]) watch((state) => trying(() => part.update(state)));

for (const column of ["chats", "memory"]) {
  const pressed = find(`show-${column}`);
  pressed.addEventListener("click", () => {
    const open = document.body.classList.toggle(column);
    pressed.setAttribute("aria-expanded", open);
    for (const other of ["chats", "memory"].filter((name) => name !== column)) {
      document.body.classList.remove(other);
      find(`show-${other}`).setAttribute("aria-expanded", false);
    }
    if (open) [...find(column).querySelectorAll("button, input")].find((one) => one.offsetParent).focus();
  });
}

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || find("asking").open) return;
  for (const column of ["chats", "memory"]) if (document.body.classList.contains(column)) find(`show-${column}`).click();
});

look();
find("message").focus();
