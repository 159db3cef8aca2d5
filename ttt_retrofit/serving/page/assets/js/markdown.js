// Markdown as safe elements: no scripts, no styles, no images, and links that tell the other side nothing.

import { marked } from "../vendor/marked.js";
import "../vendor/purify.js";
import { button, copy, element } from "./dom.js";

// Raw HTML of an answer is shown as it was written, and a picture as its words.
const asText = ({ text }) => text.replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
marked.use({ gfm: true, breaks: true, renderer: { html: asText, image: asText } });

const ALLOWED = {
  ALLOWED_TAGS: [
    "a", "b", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "li", "ol", "p",
    "pre", "strong", "sub", "sup", "table", "tbody", "td", "th", "thead", "tr", "ul",
  ],
  ALLOWED_ATTR: ["align", "href", "start"],
  ALLOWED_URI_REGEXP: /^(https?|mailto):/i,
  RETURN_DOM_FRAGMENT: true,
};

/** The text of an answer as elements. Wide tables and code scroll by themselves; code can be copied. */
export function rendered(text) {
  const made = DOMPurify.sanitize(marked.parse(text), ALLOWED);
  for (const link of made.querySelectorAll("a")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer";
  }
  for (const table of made.querySelectorAll("table")) {
    const name = { class: "wide-table", tabindex: "0", role: "region", "aria-label": "Table" };
    table.replaceWith(element("div", name, table.cloneNode(true)));
  }
  for (const code of made.querySelectorAll("pre")) {
    const copied = button("Copy", () => copy(code.textContent, copied), { "aria-label": "Copy the code" });
    code.tabIndex = 0;
    code.replaceWith(element("div", { class: "code" }, copied, code.cloneNode(true)));
  }
  return made;
}
