// Facts that wait for a person's yes.

import { post } from "./api.js";
import { announce, element, find, trying } from "./dom.js";
import { look } from "./watching.js";

let asked = "";

/** Show the facts, once for each review: what was ticked and changed stays meanwhile. */
export function update({ review, unreachable }) {
  if (unreachable) return;
  const key = review.map(({ id }) => id).join();
  if (key === asked) return;
  asked = key;
  find("review").hidden = !review.length;
  find("review-list").replaceChildren(...review.map(drawn));
  if (review.length) announce(`${review.length} facts wait for your review, under Memory.`);
}

function drawn({ id, text, said_by: by, said_at: day }) {
  const name = `review-${id}`;
  const box = element("input", { type: "checkbox", id: name, value: id, checked: true });
  const words = element("textarea", { rows: "2", "aria-label": "Its words" });
  words.value = text;
  const about = `Keep (said by ${by}${day ? `, ${day}` : ""})`;
  return element("li", { class: "fact" }, element("label", { for: name }, box, ` ${about}`), words);
}

async function answer(rows) {
  const texts = Object.fromEntries(
    rows.map((row) => [row.querySelector("input").value, row.querySelector("textarea").value.trim()]),
  );
  if (Object.values(texts).includes("")) throw new Error("A fact without words cannot be kept. Untick it.");
  await post("page/review", { texts });
  announce("Reviewed.");
  await look();
  find("message").focus();
}

find("review-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const rows = [...find("review-list").children];
  trying(() => answer(rows.filter((row) => row.querySelector("input").checked)));
});
find("review-none").addEventListener("click", () => trying(() => answer([])));
