// The chats, and the conversation of the one that is shown.

import { get, post, remove, send } from "./api.js";
import { sure } from "./asking.js";
import { announce, button, counted, drawing, element, find, trying } from "./dom.js";
import { drawn, fill } from "./message.js";
import { look } from "./watching.js";

const KEPT = "chat"; // of the tab's storage: the id of the chat that is shown
const NEAR = 80; // pixels from the end, within which the end is followed

const BUSY = "An answer is being written. Wait for it, or stop it.";

let chats = [];
let shown = { id: null, messages: [] };
let version; // of the memory
let drawnWith; // the `stamp` when the messages were shown
let answering = null; // the id of the chat in which an answer is written
let writing = false; // whether this tab asked for it

const busy = () => writing || answering !== null;

const current = () => chats.find((chat) => chat.id === shown.id);
/** The version of the memory, and how often the chat was changed. */
const stamp = () => `${version} ${current()?.changed}`;

const messages = find("messages");
const scroll = find("scroll");
const message = find("message");

const drawChats = drawing(find("chat-list"), ({ id, title, current }) => {
  const name = title || "New chat";
  const open = button(name, () => pick(id), { class: "chat-name", "aria-current": current ? "true" : null, title: name });
  const gone = button("×", () => drop(id, name), { "aria-label": `Delete the chat ${name}`, title: "Delete" });
  return element("li", {}, open, gone);
});

/** Show what the program behind the page tells of chats and answers. */
export async function update(state) {
  if (state.unreachable) return;
  const ended = answering !== null && state.answering === null && !writing;
  ({ answering, chats } = state);
  ({ version } = state.memory);
  if (!writing && !current()) {
    const kept = sessionStorage.getItem(KEPT);
    const next = chats.find((chat) => chat.id === kept) ?? chats.at(-1);
    await trying(() => show(next.id));
  } else if (!writing && !editing() && (ended || stamp() !== drawnWith)) {
    await trying(() => show(shown.id));
  }
  drawnWith = stamp();
  listing();
  composing();
}

function listing() {
  drawChats(chats.map((chat) => ({ ...chat, current: chat.id === shown.id })).reverse());
}

async function show(id) {
  if (writing) throw new Error(BUSY);
  const other = id !== shown.id;
  shown = await get(`page/chats/${id}`);
  sessionStorage.setItem(KEPT, id);
  draw(shown.messages);
  drawnWith = stamp();
  if (other) scroll.scrollTop = scroll.scrollHeight;
  listing();
}

/** Show another chat, and in a narrow window itself in the place of the list. */
async function pick(id) {
  await show(id);
  document.body.classList.remove("chats");
  find("show-chats").setAttribute("aria-expanded", "false");
  message.focus();
}

/** Show messages; `still` ones can be copied, and nothing else. */
function draw(said, still = false) {
  const last = said.length - 1;
  const acts = (one, place) =>
    one.role === "user"
      ? { edit: (text, end) => edit(place, text, end) }
      : { again: place === last && said[place - 1]?.role === "user" ? () => ask(said[place - 1].content, place - 1) : null };
  const nothing = element("p", { class: "quiet" }, "What is said here becomes memory while you are away.");
  messages.replaceChildren(...(said.length ? said.map((one, place) => drawn(one, still ? {} : acts(one, place))) : [nothing]));
}

const editing = () => messages.querySelector(".editing") !== null;

/** Ask, in the place of an earlier message if there is a place, and write the answer as it comes. */
async function ask(text, place = null) {
  if (busy()) throw new Error(BUSY);
  const asked = { role: "user", content: text };
  const answer = { role: "assistant", content: "" };
  writing = true;
  composing();
  draw(shown.messages.slice(0, place ?? shown.messages.length), true);
  if (!shown.messages.length || place === 0) messages.replaceChildren();
  messages.append(drawn(asked, null), drawn(answer, null));
  const written = messages.lastChild.querySelector(".text");
  written.replaceChildren(element("p", { class: "quiet" }, "…"));
  messages.setAttribute("aria-busy", "true");
  scroll.scrollTop = scroll.scrollHeight;
  try {
    await send(shown.id, place === null ? { text } : { text, place }, (piece) => {
      answer.content += piece;
      following(() => fill(written, answer));
    });
    announce("The answer is complete.");
  } finally {
    writing = false;
    answering = null;
    messages.removeAttribute("aria-busy");
    // It may have been deleted meanwhile; then another one is shown.
    shown = await get(`page/chats/${shown.id}`).catch(() => ({ id: null, messages: [] }));
    following(() => draw(shown.messages));
    await look();
  }
}

/** Change what is shown, and stay at its end if the end was in view. */
function following(change) {
  const near = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < NEAR;
  change();
  if (near) scroll.scrollTop = scroll.scrollHeight;
}

async function edit(place, text, end) {
  const later = shown.messages.length - place - 2;
  if (later > 0) {
    const told = [`${counted(later, "message")} after it will be deleted: they answer what you said before.`];
    if (!(await sure("Send the changed message?", told, "Send it")).sure) return;
  }
  end();
  await ask(text, place);
}

async function drop(id, name) {
  const told = [
    `“${name}” is deleted, and what of it is not learned yet is dropped.`,
    "What was learned from it stays in the memory: see Facts.",
  ];
  if (!(await sure("Delete this chat?", told, "Delete the chat")).sure) return;
  await remove(`page/chats/${id}`);
  await look();
  message.focus();
}

// ---------------------------------------------------------------- the message that is being typed

function composing() {
  find("send").hidden = busy();
  find("stop").hidden = !busy();
}

function fit() {
  message.style.height = "auto";
  message.style.height = `${message.scrollHeight + 2}px`;
}

async function submit(event) {
  event?.preventDefault();
  const text = message.value;
  if (!text.trim() || busy()) return;
  message.value = "";
  fit();
  try {
    await ask(text);
  } catch (error) {
    message.value ||= text; // nothing of it was kept
    fit();
    throw error;
  }
}

const stop = () => (busy() ? post("page/stop") : null);

find("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  trying(submit);
});
message.addEventListener("input", fit);
message.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    trying(submit);
  }
});
find("stop").addEventListener("click", () => trying(stop));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !find("asking").open) trying(stop);
});
find("new-chat").addEventListener("click", () =>
  trying(async () => {
    if (writing) throw new Error(BUSY);
    const begun = await post("page/chats");
    await pick(begun.id);
    await look();
  }),
);
