// One question before something is lost.

import { element, find } from "./dom.js";

/**
 * Ask. The focus is on "Cancel", and Escape cancels.
 * @param {string} option - of a box that is not ticked, or nothing
 * @returns {Promise<{sure: boolean, ticked: boolean}>}
 */
export function sure(question, explained, yes, option) {
  const dialog = find("asking");
  const before = document.activeElement;
  const box = element("input", { type: "checkbox" });
  find("asking-title").textContent = question;
  find("asking-text").replaceChildren(
    ...explained.map((line) => element("p", {}, line)),
    ...(option ? [element("label", {}, box, ` ${option}`)] : []),
  );
  find("asking-yes").textContent = yes;
  dialog.returnValue = "";
  dialog.showModal();
  find("asking-no").focus();
  return new Promise((answered) => {
    const closed = () => {
      before?.focus();
      answered({ sure: dialog.returnValue === "yes", ticked: box.checked });
    };
    dialog.addEventListener("close", closed, { once: true });
  });
}
