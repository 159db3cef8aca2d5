// The facts: searched, added, corrected, deleted; and the changes that are under way.

import { get, post, remove } from "./api.js";
import { sure } from "./asking.js";
import { announce, button, counted, drawing, element, find, trying } from "./dom.js";
import { left } from "./progress.js";
import { look } from "./watching.js";

const SHOWN = 50; // facts at first, and with each press of "Show more"
const TYPING = 200; // milliseconds without a key, after which is searched

let user;
let seen; // which facts are shown, of which version of the memory
let most = SHOWN;
let facts = [];
let loading = 0; // how often the facts were asked for
const hidden = new Set(); // ids of changes that were refused, and read

const list = find("fact-list");
const search = find("search");
const which = find("which");

const inWords = ({ status, learned }) => status === "waiting" || learned === false;
const known = ({ status }) => status === "current" || status === "waiting";
const path = (...parts) => ["v1/memories", user, "facts", ...parts].map((part, n) => (n ? encodeURIComponent(part) : part)).join("/");

/** Show the changes, and the facts again if others are known. */
export async function update(state) {
  if (state.unreachable) return;
  user = state.user;
  drawChanges(state.changes.filter(({ id }) => !hidden.has(id)).map((change) => ({ ...change, told: told(change) })));
  const now = `${state.memory.version} ${state.memory.words}`;
  if (now === seen) return;
  await load();
  seen = now;
}

async function load() {
  const number = ++loading;
  const query = search.value.trim();
  const status = which.value === "words" ? "known" : which.value;
  const asked = new URLSearchParams({ status, limit: 1000, ...(query ? { query } : {}) });
  const { data } = await get(`${path()}?${asked}`);
  if (number !== loading) return; // an answer to an earlier question came late
  facts = data.filter((fact) => fact.text && (which.value !== "words" || inWords(fact)));
  if (!query) facts.reverse(); // newest first
  show();
}

function show() {
  if (list.querySelector("form")) return; // a fact is being corrected
  list.replaceChildren(...facts.slice(0, most).map(drawn));
  const nothing = search.value.trim() ? "No fact has these words." : "Nothing is known yet.";
  if (!facts.length) list.append(element("li", { class: "quiet" }, nothing));
  find("facts-count").textContent = facts.length;
  find("more-facts").hidden = facts.length <= most;
}

// ---------------------------------------------------------------- a fact

function drawn(fact) {
  const marks = [
    known(fact) ? mark(fact) : element("span", { class: "mark old" }, "earlier"),
    `${fact.provenance === "added" ? "added by" : "said by"} ${fact.said_by}`,
    fact.said_at ? element("time", { datetime: fact.said_at }, fact.said_at) : null,
  ];
  const about = element("p", { class: "about" }, ...marks.flatMap((one) => (one ? [one, " "] : [])));
  const item = element("li", { class: "fact" }, element("p", { class: "fact-text", dir: "auto" }, fact.text), about);
  const buttons = element("div", { class: "tools" });
  if (known(fact)) {
    buttons.append(button("Correct", () => correcting(item, fact), { "aria-label": `Correct: ${fact.text}` }));
  }
  buttons.append(
    button("Delete", () => forget(fact), { "aria-label": `Delete: ${fact.text}` }),
    button("History", (event) => history(item, fact), { "aria-label": `History of: ${fact.text}` }),
  );
  item.append(buttons);
  return item;
}

function mark({ status, learned }) {
  const told = "The model is told it in words before a chat, until it is learned.";
  if (status === "waiting") return element("span", { class: "mark waits", title: told }, "waiting");
  if (learned === null) return element("span", { class: "mark", title: "The model was not asked." }, "not checked");
  return learned
    ? element("span", { class: "mark learned", title: "The model was asked, and knew it." }, "learned")
    : element("span", { class: "mark words", title: "The model is told it in words before a chat." }, "in words");
}

function correcting(item, fact) {
  if (item.querySelector("form")) return;
  const area = element("textarea", { rows: "2", maxlength: "2000", "aria-label": "The corrected fact" });
  area.value = fact.text;
  const end = () => {
    form.remove();
    show();
  };
  const submit = (event) => {
    event.preventDefault();
    const text = area.value.trim();
    if (text === fact.text) return end();
    return trying(async () => {
      const change = await post(path(fact.id), { text });
      end();
      announce(change.status === "accepted" ? "Corrected." : "The correction waits to be learned.");
      await look();
    });
  };
  const form = element(
    "form",
    { class: "editing", submit },
    area,
    element("div", { class: "buttons" }, element("button", { class: "primary" }, "Save"), button("Cancel", end)),
  );
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      end();
    }
  });
  item.append(form);
  area.focus();
}

async function forget(fact) {
  const waits = fact.status === "waiting";
  const lost = waits
    ? "It is not learned yet. The sentences that tell it go from your messages and from the chats. There is no way back."
    : "What was learned of it is taken out of the memory, and messages that tell it go from the chats.";
  const explained = [`“${fact.text}”`, lost];
  const option = waits
    ? undefined
    : "Delete the earlier versions of the memory, too: they still hold it. There is no way back then.";
  const { sure: yes, ticked } = await sure("Delete this fact?", explained, "Delete the fact", option);
  if (!yes) return;
  const change = await remove(`${path(fact.id)}?purge=${ticked}`);
  announce(change.status === "accepted" ? "Deleted." : "The fact waits to be deleted.");
  await look();
  search.focus();
}

async function history(item, fact) {
  const open = item.querySelector(".history");
  if (open) return open.remove();
  const { data } = await get(path(fact.id, "history"));
  const lines = data.map((one) => {
    const day = one.said_at ? ` (${one.said_at})` : "";
    return element("li", {}, one.text ? one.text + day : `(its words are deleted)${day}`);
  });
  item.append(element("ol", { class: "history", "aria-label": "History" }, ...lines));
  return undefined;
}

// ---------------------------------------------------------------- changes

const drawChanges = drawing(find("changes"), ({ id, status, reason, told: words }) => {
  const item = element("li", { class: `change ${status}` }, element("p", {}, words));
  if (status !== "refused" && status !== "failed") return item;
  const hide = () => {
    hidden.add(id);
    item.remove();
    search.focus();
  };
  item.append(element("p", { class: "quiet" }, reason), element("div", { class: "tools" }, button("Hide", hide)));
  return item;
});

function told({ ids, text, status, progress }) {
  const act = text === null ? "Delete a fact" : ids.length ? `Correct to “${text}”` : `Add “${text}”`;
  const stage = progress ? `${progress.stage}${left(progress)}` : "begins";
  const how = { waiting: "waits", working: stage, refused: "refused", failed: "failed" };
  return `${act}: ${how[status]}`;
}

// ---------------------------------------------------------------- what is typed

let typed;
search.addEventListener("input", () => {
  clearTimeout(typed);
  typed = setTimeout(() => trying(found), TYPING);
});
which.addEventListener("change", () => trying(found));

async function found() {
  most = SHOWN;
  await load();
  announce(counted(facts.length, "fact"));
}

find("more-facts").addEventListener("click", () => {
  most += SHOWN;
  show();
});
find("add-fact").addEventListener("submit", (event) => {
  event.preventDefault();
  const box = find("new-fact");
  if (!box.value.trim()) return;
  trying(async () => {
    await post(path(), { text: box.value.trim() });
    box.value = "";
    announce("The fact waits to be learned.");
    await look();
  });
});
