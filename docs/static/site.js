// What HTML cannot do by itself: old anchors forwarded, scrolling boxes reachable by keyboard, search for Greek letters, its excerpts without TeX.
const moved = JSON.parse(document.querySelector("meta[name=moved]")?.content ?? "{}");
const forward = () => { if (moved[location.hash]) location.replace(moved[location.hash]); };
forward();
addEventListener("hashchange", forward);
const scrollers = ".highlight pre, .math-wrapper, .table-wrapper, div.output";
const reach = () => document.querySelectorAll(scrollers).forEach((box, number) => {
  if (box.scrollWidth > box.clientWidth + 1) {
    box.tabIndex = 0;
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", `Scrolls sideways, ${number + 1}`);  // a name of its own
  } else if (box.tabIndex === 0) ["tabindex", "role", "aria-label"].forEach(name => box.removeAttribute(name));
});
addEventListener("load", reach);
addEventListener("resize", reach);
document.fonts.ready.then(reach);
if (typeof Search !== "undefined") {
  const names = { β: "beta", ε: "epsilon", ϵ: "epsilon", η: "eta", θ: "theta", λ: "lambda", μ: "mu", µ: "mu", σ: "sigma", φ: "phi", ϕ: "phi", "²": "^2", "∥": "||" };
  const plain = Search.htmlToText, query = Search.query;
  Search.query = words => query(words.toLowerCase().replace(/[^ -~]/g, letter => names[letter] ?? letter));
  Scorer.score = ([page, , , , score, , kind]) =>  // the text of a chapter before that of the API, the earlier chapter first
    kind === "object" || kind === "index" ? score : page.startsWith("api/") ? score - 12 : score + 1 - (parseInt(page) || 100) / 100;
  const unread = /<span class="katex-mathml">[\s\S]*?<\/math><\/span>|<(ul|nav|p) class="(?:in-this-chapter|chapter-links|at-a-glance)[\s\S]*?<\/\1>/g;
  Search.htmlToText = (html, anchor) => plain(html.replace(unread, ""), anchor && "#" + CSS.escape(anchor.slice(1)));
}
// The drawers of a narrow screen, and the folds of the sidebar, are labels of hidden checkboxes: let the keyboard press them.
document.querySelectorAll("label[for^='__'], .sidebar-tree label").forEach(label => {
  const box = document.getElementById(label.htmlFor);
  if (!box || label.classList.contains("overlay")) return;
  const name = label.htmlFor === "__navigation" ? "Chapters" : label.htmlFor === "__toc" ? "On this page" : "Fold";
  const button = label.firstElementChild, show = () => button.setAttribute("aria-expanded", box.checked);
  Object.entries({ role: "button", tabindex: "0", "aria-label": name }).forEach(([key, value]) => button.setAttribute(key, value));
  button.addEventListener("keydown", event => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); box.click(); }
  });
  box.addEventListener("change", show);
  show();
});
Object.entries({ ".sidebar-drawer": "Chapters", ".toc-drawer": "On this page" }).forEach(([drawer, name]) => document.querySelector(drawer)?.setAttribute("aria-label", name));
addEventListener("keydown", event => {
  if (event.key === "Escape") document.querySelectorAll(".sidebar-toggle:checked").forEach(box => box.click());
});
