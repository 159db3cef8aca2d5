// Elements of the page: making, finding, telling.

export const find = (id) => document.getElementById(id);

/** An element. Attributes that are functions listen; true and false set and leave out. Text is never read as HTML. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (typeof value === "boolean") made.toggleAttribute(name, value);
    else if (value !== undefined && value !== null) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** A button that does something; what fails is shown. */
export function button(label, act, attributes = {}) {
  return element("button", { type: "button", ...attributes, click: () => trying(act) }, label);
}

/** Do something, and show the error if it fails. */
export async function trying(act) {
  try {
    return await act();
  } catch (error) {
    find("error-text").textContent = error.message;
    find("error").hidden = false;
    return undefined;
  }
}

/** Tell a screen reader. */
export function announce(text) {
  find("announced").textContent = text;
}

/** Draw a list again if what it shows has changed, so that the focus stays where it is. */
export function drawing(list, draw) {
  let shown;
  return (items) => {
    const key = JSON.stringify(items);
    if (key === shown) return;
    shown = key;
    list.replaceChildren(...items.map(draw));
  };
}

export async function copy(text, pressed) {
  await navigator.clipboard.writeText(text);
  const label = (pressed.dataset.label ??= pressed.textContent);
  pressed.textContent = "Copied";
  announce("Copied");
  setTimeout(() => (pressed.textContent = label), 1500);
}

const plural = new Intl.PluralRules("en");

/** A number of things: "1 message", "2 messages". */
export function counted(number, thing) {
  return `${number.toLocaleString("en")} ${thing}${plural.select(number) === "one" ? "" : "s"}`;
}

/** Seconds since 1970 for eyes. */
export function when(seconds) {
  return new Date(seconds * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}

find("error-close").addEventListener("click", () => {
  find("error").hidden = true;
  find("message").focus();
});
