// One message: its text, and what can be done with it.

import { button, copy, element, trying } from "./dom.js";
import { rendered } from "./markdown.js";

/**
 * A message of a chat.
 * @param {{role: string, content: string, waiting: boolean}} message
 * @param {{edit: Function, again: Function} | null} acts - null while it is being written
 */
export function drawn(message, acts) {
  const own = message.role === "user";
  const text = element("div", { class: "text", dir: "auto" });
  fill(text, message);
  const name = own ? "You" : "Answer";
  const article = element("article", { class: own ? "message own" : "message", "aria-label": name }, text);
  if (acts) article.append(tools(article, text, message, acts));
  return article;
}

/** Put the text into its place: what the user wrote as it was written, an answer as Markdown. */
export function fill(text, { role, content }) {
  if (role === "user") text.textContent = content;
  else text.replaceChildren(content ? rendered(content) : element("p", { class: "quiet" }, "(no words)"));
}

function tools(article, text, message, { edit, again }) {
  const copied = button("Copy", () => copy(message.content, copied));
  const row = element("div", { class: "tools" }, copied);
  if (edit) row.append(button("Edit", () => editing(article, text, row, message, edit)));
  if (again) row.append(button("Regenerate", again));
  return row;
}

function editing(article, text, row, message, edit) {
  const area = element("textarea", { "aria-label": "Your message", rows: "3" });
  area.value = message.content;
  const end = () => {
    form.replaceWith(text, row);
    row.querySelectorAll("button")[1].focus();
  };
  const submit = (event) => {
    event.preventDefault();
    if (area.value.trim()) trying(() => edit(area.value, end));
  };
  const form = element(
    "form",
    { class: "editing", submit },
    area,
    message.waiting ? null : element("p", { class: "quiet" }, "This was learned already. Correct its facts, too."),
    element("div", { class: "buttons" }, element("button", { class: "primary" }, "Send"), button("Cancel", end)),
  );
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      end();
    } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  text.remove();
  row.replaceWith(form);
  area.focus();
}
