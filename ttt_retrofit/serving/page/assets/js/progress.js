// How far a consolidation is, and what waits for it.

import { get } from "./api.js";
import { announce, counted, drawing, element, find, trying } from "./dom.js";

const STAGES = { study: "studying", train: "training", verify: "verifying", waiting: "beginning" };

let user;
let stage = null; // that was told to screen readers, which would be told every second otherwise
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
    const { done, total } = consolidating;
    const name = STAGES[consolidating.stage] ?? consolidating.stage;
    const share = total ? ` ${done} of ${total}` : "";
    words = `Learning: ${name}${share}${left(consolidating)}.`;
    brief ||= words;
    bar.max = total || 1;
    bar.value = done;
  }
  if (stage !== (consolidating?.stage ?? null)) {
    stage = consolidating?.stage ?? null;
    announce(stage ? words : "Learning has ended.");
  }
  if (state.failure) words = `The consolidation failed: ${state.failure}`;
  find("progress").textContent = brief;
  find("learning").textContent = words;
  find("waiting-count").textContent = counted(waiting, "message");
  if (details.open) await list();
}

const draw = drawing(find("waiting-list"), ({ role, content }) =>
  element("li", { class: "waiting" }, element("b", {}, role === "user" ? "You: " : "Answer: "), content),
);

async function list() {
  draw((await get(`v1/memories/${user}/messages`)).data);
}

details.addEventListener("toggle", () => details.open && trying(list));
