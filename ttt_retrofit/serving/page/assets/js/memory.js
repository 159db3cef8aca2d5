// The memory as a whole: its report, its versions, the conversations that it learned, and its end.

import { get, post, remove } from "./api.js";
import { sure } from "./asking.js";
import { counted, drawing, element, find, trying, when } from "./dom.js";
import { look } from "./watching.js";

let user;
let seen;
let versions = [];

/** Show the report and the lists again if the memory has changed. */
export async function update(state) {
  if (state.unreachable) return;
  user = state.user;
  const { version, entries, last_report: report } = state.memory;
  drawReport(lines(report));
  drawContexts(entries.toReversed());
  if (version === seen) return;
  seen = version;
  if (find("versions").open) await list();
}

// ---------------------------------------------------------------- the report

const drawReport = drawing(find("report"), (line) => element("li", {}, line));

const share = (value) => `${Math.round(value * 100)}%`;

function lines(report) {
  if (!report) return ["None yet."];
  const found = [report.accepted ? "Accepted." : `Rejected: ${report.reason} The messages stay in words.`];
  if (report.facts) found.push(`${report.facts - report.unlearned.length} of ${counted(report.facts, "fact")} learned; the others stay in words.`);
  if (report.recall !== null) found.push(`Recall: ${share(report.recall)} of ${counted(report.questions, "question")}.`);
  if (report.false_memories !== null) found.push(`False memories: ${share(report.false_memories)}.`);
  if (report.forgotten) found.push(`${counted(report.forgotten, "fact")} forgotten; ${report.still_answered} still answered, ${report.lost} others lost.`);
  found.push(`Drift on unrelated text: ${(report.drift_loss * 100).toFixed(2)}%.`);
  if (report.refused) found.push(`${counted(report.refused, "fact")} refused by policy or review.`);
  return found;
}

// ---------------------------------------------------------------- versions

const drawVersions = drawing(find("version-list"), ({ version, current, facts, created }) => {
  const name = version ? `Version ${version}` : "Before the first";
  const about = `${counted(facts, "fact")}${created ? `, ${when(created)}` : ""}${current ? ", current" : ""}`;
  const choice = element("input", { type: "radio", name: "version", value: version, disabled: current });
  return element("li", {}, element("label", {}, choice, ` ${name}: ${about}`));
});

async function list() {
  versions = (await get("page/versions")).data;
  drawVersions(versions);
  choosing("versions-form", "rollback");
}

async function rollback() {
  const number = Number(new FormData(find("versions-form")).get("version"));
  const { gained, lost } = versions.find(({ version }) => version === number);
  const told = (facts, how) => (facts.length ? `${counted(facts.length, "fact")} ${how}: ${some(facts)}` : null);
  const explained = [
    told(lost, "will not be known"),
    told(gained, "will be known again"),
    "The versions after it are not offered anymore.",
  ];
  const question = number ? `Go back to version ${number}?` : "Go back to before the first version?";
  if (!(await sure(question, explained.filter(Boolean), "Go back")).sure) return;
  await post("page/rollback", { version: number });
  await look();
}

const some = (facts) => facts.slice(0, 3).join(" ") + (facts.length > 3 ? " …" : "");

// ---------------------------------------------------------------- conversations

const drawContexts = drawing(find("context-list"), ({ name, created, facts, lessons }) => {
  const about = `${when(created)}, ${facts ? counted(facts, "fact") : counted(lessons, "lesson")}`;
  return element("li", {}, element("label", {}, element("input", { type: "checkbox", name: "name", value: name }), ` ${about}`));
});

async function forget() {
  const names = new FormData(find("contexts-form")).getAll("name");
  const told = ["All that was learned from them alone is dropped. Versions before still hold it."];
  if (!(await sure(`Forget ${counted(names.length, "conversation")}?`, told, "Forget")).sure) return;
  await post("page/forget", { names });
  await look();
  choosing("contexts-form", "forget");
}

// ---------------------------------------------------------------- the end

async function erase() {
  const told = ["All chats, messages, facts and versions of the memory are deleted. There is no way back."];
  if (!(await sure("Erase everything?", told, "Erase everything")).sure) return;
  await post("page/stop");
  await remove(`v1/memories/${user}`);
  await look();
  find("message").focus();
}

/** A button can be pressed once something is chosen. */
function choosing(form, pressed) {
  find(pressed).disabled = find(form).querySelector("input:checked") === null;
}

for (const [form, pressed, act] of [["versions-form", "rollback", rollback], ["contexts-form", "forget", forget]]) {
  find(form).addEventListener("change", () => choosing(form, pressed));
  find(form).addEventListener("submit", (event) => {
    event.preventDefault();
    trying(act);
  });
}
find("versions").addEventListener("toggle", () => find("versions").open && trying(list));
find("erase").addEventListener("click", () => trying(erase));
