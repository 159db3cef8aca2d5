// How far a consolidation is, and what waits for it.

import { get } from "./api.js";
import { counted, drawing, element, find, trying } from "./dom.js";

const STAGES = { study: "studying", train: "training", verify: "verifying", waiting: "beginning" };

let user;
const details = find("waiting");

/** The time left of a stage, in words. */
export function left({ seconds_left: seconds }) {
  if (seconds === null) return "";
  if (seconds < 60) return `, about ${counted(Math.max(1, Math.round(seconds)), "second")} left`;
  return `, about ${counted(Math.round(seconds / 60), "minute")} left`;
}

/** Show where the consolidation is. */
export async function update(state) {
  if (state.unreachable) {
    find("progress").textContent = state.unreachable;
    return;
  }
  user = state.user;
  const { messages_waiting: waiting, consolidating } = state.memory;
  const bar = find("learning-bar");
  bar.hidden = consolidating === null;
  let words = waiting ? "They become memory while you are away; the last turns stay in words." : "All was learned.";
  let brief = "";
  if (state.review.length) brief = `${counted(state.review.length, "fact")} to review`;
  if (consolidating) {
    const { stage, done, total } = consolidating;
    const share = total ? ` ${done} of ${total}` : "";
    words = `Learning: ${STAGES[stage] ?? stage}${share}${left(consolidating)}.`;
    brief ||= words;
    bar.max = total || 1;
    bar.value = done;
  }
  if (state.failure) words = `The consolidation failed: ${state.failure}`;
  set("progress", brief);
  set("learning", words);
  set("waiting-count", counted(waiting, "message"));
  if (details.open) await list();
}

function set(id, text) {
  if (find(id).textContent !== text) find(id).textContent = text; // a screen reader tells a text that is set again
}

const draw = drawing(find("waiting-list"), ({ role, content }) =>
  element("li", { class: "waiting" }, element("b", {}, role === "user" ? "You: " : "Answer: "), content),
);

async function list() {
  draw((await get(`v1/memories/${user}/messages`)).data);
}

details.addEventListener("toggle", () => details.open && trying(list));
