// What changes by itself: asked for every second, and at once after an act.

import { get } from "./api.js";

const EVERY = 1000; // milliseconds
const HIDDEN = 5000; // while nobody looks

const watchers = [];
let timer;
let asked = 0;

/** Call `show` with every new state. */
export const watch = (show) => watchers.push(show);

/** Ask now. */
export async function look() {
  clearTimeout(timer);
  const number = ++asked;
  let state;
  try {
    state = await get("page/state");
  } catch (error) {
    state = { unreachable: error.message };
  }
  if (number !== asked) return; // another look began meanwhile
  for (const show of watchers) {
    await show(state);
    if (number !== asked) return;
  }
  timer = setTimeout(look, document.hidden ? HIDDEN : EVERY);
}

document.addEventListener("visibilitychange", () => document.hidden || look());
