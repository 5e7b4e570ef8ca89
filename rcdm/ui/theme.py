"""Looks: a calm theme, light and dark, the style sheet of what we draw as HTML, and its small script."""

from __future__ import annotations

import gradio as gr

FONT = ("system-ui", "-apple-system", "Segoe UI", "sans-serif")

THEME = gr.themes.Base(
    primary_hue="teal",
    secondary_hue="teal",
    neutral_hue="slate",
    radius_size="md",
    font=FONT,
    font_mono=("ui-monospace", "monospace"),
).set(
    body_background_fill="#f7f8f9",
    body_background_fill_dark="#10151b",
    block_background_fill="#ffffff",
    block_background_fill_dark="#171e26",
    block_border_color="#dfe4e8",
    block_border_color_dark="#2a343f",
    block_shadow="none",
    block_label_background_fill="transparent",
    block_label_background_fill_dark="transparent",
    block_label_border_width="0px",
    block_title_text_weight="600",
    button_primary_background_fill="#0f766e",
    button_primary_background_fill_dark="#0f766e",
    button_primary_background_fill_hover="#115e59",
    button_primary_background_fill_hover_dark="#0d9488",
    button_primary_text_color="#ffffff",
    button_primary_text_color_dark="#ffffff",
)

CSS = """
.gradio-container { max-width: 1320px !important; overflow: clip !important; }
.controls { flex: 0 1 340px !important; }
.results { flex: 1 1 480px !important; }
.results .html-container, .controls .html-container { padding: 0; }
#examples button { width: 60px; height: 60px; padding: 0; overflow: hidden; }
#examples button span, #examples button div { display: block; width: 100%; height: 100%; max-height: none; }
#examples img { width: 100%; height: 100%; max-width: none; max-height: none; object-fit: cover; }
.rcdm { --quiet: color-mix(in srgb, var(--body-text-color) 72%, transparent); color: var(--body-text-color);
  font-size: 14px; line-height: 1.5; }
.rcdm img, .rcdm .bone { display: block; width: 100%; aspect-ratio: 1; image-rendering: pixelated; border-radius: 4px; }
.rcdm .bone { background: color-mix(in srgb, var(--body-text-color) 9%, transparent); }
.rcdm.waiting .bone { animation: rcdm-breathe 1.6s ease-in-out infinite; }
@keyframes rcdm-breathe { 50% { opacity: .45; } }
@media (prefers-reduced-motion: reduce) { .rcdm.waiting .bone { animation: none; } }
.rcdm .look { display: block; width: 100%; padding: 0; border: 0; background: none; border-radius: 4px;
  cursor: zoom-in; }
.rcdm .look:focus-visible, .rcdm input:focus-visible { outline: 2px solid var(--color-accent); outline-offset: 2px; }
.rcdm figure { margin: 0; min-width: 0; }
.rcdm p { margin: 0 0 6px; max-width: 80ch; }
.rcdm figcaption, .rcdm .meta, .rcdm .legend, .rcdm.view, .rcdm.status, .rcdm.meta { color: var(--quiet);
  font-size: 12px; }
.rcdm figcaption { display: flex; justify-content: space-between; margin-top: 2px; font-variant-numeric: tabular-nums; }
.rcdm .given { display: flex; gap: 16px; align-items: center; margin-bottom: 14px; min-height: 112px; }
.rcdm .given img { flex: none; width: 112px; }
.rcdm.view .given { gap: 10px; margin: 0; min-height: 56px; }
.rcdm.view .given img { width: 56px; }
.rcdm h1 { margin: 4px 0 2px; font-size: 22px; font-weight: 650; color: var(--body-text-color); }
header.rcdm p { max-width: 100ch; }
header.rcdm a { padding: 0; margin: 0; color: var(--link-text-color); }
.rcdm .note { padding: 8px 12px; border-left: 3px solid #d97706; border-radius: 4px;
  background: color-mix(in srgb, #d97706 12%, transparent); }
.rcdm .columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 220px), 1fr));
  gap: 0 12px; }
.rcdm .columns section { margin-bottom: 12px; }
.rcdm .stack { display: grid; gap: 12px; }
.rcdm section { padding: 12px; border: 1px solid var(--block-border-color);
  border-radius: 8px; background: var(--block-background-fill); }
.rcdm .columns section { display: grid; grid-row: span 4; grid-template-rows: subgrid; row-gap: 0; }
.rcdm h3 { margin: 0; font-size: 15px; font-weight: 600; overflow-wrap: anywhere; color: var(--body-text-color); }
.rcdm h3 span { font-weight: 400; }
.rcdm .head { margin-bottom: 6px; }
.rcdm .draws { display: grid; gap: 8px; grid-template-columns: repeat(var(--across), minmax(0, 1fr));
  align-content: start; }
.rcdm .ladder { min-width: 0; }
.rcdm .summary { margin-top: 10px; padding-top: 10px; border-top: 1px solid var(--block-border-color); }
.rcdm .strip { display: grid; gap: 8px; grid-template-columns: repeat(auto-fill, minmax(72px, 96px)); }
.rcdm .kept { display: grid; grid-template-columns: auto minmax(24px, 1fr) auto; gap: 4px 8px; align-content: start;
  align-items: center; margin-top: 12px; padding-top: 10px; border-top: 1px solid var(--block-border-color);
  font-size: 12px; }
.rcdm .kept b { grid-column: 1 / -1; }
.rcdm .kept .number { text-align: right; font-variant-numeric: tabular-nums; }
.rcdm .track { position: relative; height: 6px; border-radius: 3px; background: var(--block-border-color); }
.rcdm .track i { display: block; height: 100%; border-radius: 3px; background: #14a394; }
.rcdm .track u { position: absolute; top: -2px; height: 10px; border-inline: 1.5px solid var(--body-text-color);
  background: linear-gradient(var(--body-text-color), var(--body-text-color)) center / 100% 1.5px no-repeat; }
.rcdm .track u.open-left, .rcdm .track u.open-left.open-right { border-left: 0; }
.rcdm .track u.open-right { border-right: 0; }
.rcdm .kept .name[title] { cursor: help; text-decoration: underline dotted; text-underline-offset: 2px; }
.rcdm.sheet.stale::before { content: "This was drawn from another image: draw again."; display: block;
  margin-bottom: 10px; padding: 6px 12px; border-left: 3px solid #d97706; border-radius: 4px;
  background: color-mix(in srgb, #d97706 12%, transparent); }
.rcdm.sheet.stale > * { opacity: .55; }
.rcdm .track s { position: absolute; top: -3px; width: 2px; height: 12px; background: #d97706; }
.rcdm .track.untold i { background: color-mix(in srgb, var(--body-text-color) 35%, transparent); }
.rcdm .legend { margin: 12px 0 0; max-width: 100ch; }
.rcdm.status { min-height: 30px; }
.told .wrap :is(.error, .clear-status) { display: none; }
.rcdm .empty { display: grid; place-items: center; min-height: 300px; padding: 24px; text-align: center;
  border: 1px dashed var(--block-border-color); border-radius: 8px; color: var(--quiet); }
.rcdm .take { display: flex; flex-wrap: wrap; gap: 8px 14px; align-items: center; }
.rcdm .take a { color: var(--link-text-color); }
.rcdm pre { margin: 8px 0 0; padding: 8px 10px; white-space: pre-wrap; overflow-wrap: anywhere; border-radius: 6px;
  background: color-mix(in srgb, var(--body-text-color) 7%, transparent); font-size: 12px; }
.rcdm .wide { margin-bottom: 12px; }
.rcdm .reel { display: grid; grid-template-columns: 112px 1fr; gap: 12px; align-items: start; margin-top: 6px; }
.rcdm .columns .reel { grid-template-columns: 72px 1fr; margin-bottom: 8px; }
.rcdm .film { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(20px, 72px); gap: 5px; overflow-x: auto;
  padding: 3px; margin-top: 8px; }
.rcdm .reel .film { margin-top: 0; }
.rcdm .frame { padding: 0; border: 0; background: none; cursor: pointer; }
.rcdm .frame img:not(:first-child) { display: none; }
.rcdm .frame.on img { outline: 2px solid var(--color-accent); outline-offset: 1px; }
.rcdm .slide { display: grid; gap: 4px; margin-bottom: 12px; padding: 8px 0; position: sticky; top: 0; z-index: 20;
  background: var(--body-background-fill); }
.results :is(.html-container, .block, .tabitem, .tabs, .column, .form) { overflow: visible !important; }
.rcdm .abilities { margin-top: 2px; }
.rcdm summary { cursor: pointer; }
.rcdm .slide input { width: 100%; accent-color: #0f766e; }
.rcdm .curves { max-width: 620px; margin-top: 12px; }
.rcdm .curves svg { width: 100%; height: auto; }
.rcdm .curves line { stroke: var(--block-border-color); }
.rcdm .curves text { fill: var(--body-text-color); font-size: 11px; text-anchor: end; dominant-baseline: middle; }
.rcdm .curves .line { fill: none; stroke-width: 2; }
.rcdm .curves figcaption { flex-wrap: wrap; justify-content: start; gap: 4px 14px; }
.rcdm .key::before { content: ""; display: inline-block; width: 14px; height: 3px; margin-right: 5px;
  vertical-align: middle; background: var(--line); }
.rcdm .c0 { --line: #0f9d8f; } .rcdm .c1 { --line: #d97706; } .rcdm .c2 { --line: #6d6fd6; }
.rcdm .c3 { --line: #c2417c; } .rcdm .c4 { --line: #4d7c0f; } .rcdm .c5 { --line: #64748b; }
.rcdm .line { stroke: var(--line); }
.rcdm.table { overflow-x: auto; }
.rcdm.table :is(table, thead, tbody, tr) { border: 0 !important; }
.rcdm.table table { border: 0; border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
.rcdm.table th, .rcdm.table td { padding: 4px 8px 4px 0; text-align: left; white-space: nowrap; border: 0;
  border-bottom: 1px solid var(--block-border-color); font-size: 13px; color: var(--body-text-color); }
.rcdm.table + .rcdm { margin: 10px 0 14px; }
.rcdm.table th { white-space: normal; vertical-align: bottom; }
.rcdm.table :is(th[scope=row], td) { vertical-align: top; }
.rcdm.shaded { margin: 10px 0; }
.rcdm.shaded td { background: color-mix(in srgb, #14a394 calc(var(--share) * .6), transparent); padding: 3px 8px; }
.rcdm td small { display: block; color: var(--quiet); }
dialog.rcdm-large { border: 1px solid var(--block-border-color); border-radius: 10px; padding: 16px;
  max-width: min(96vw, 980px); color: var(--body-text-color); background: var(--block-background-fill); }
dialog.rcdm-large::backdrop { background: rgb(0 0 0 / 55%); }
dialog.rcdm-large div { display: flex; flex-wrap: wrap; gap: 16px; justify-content: center; }
dialog.rcdm-large figure { margin: 0; width: min(42vw, 448px); min-width: 200px; }
dialog.rcdm-large img { width: 100%; image-rendering: pixelated; border-radius: 6px; }
dialog.rcdm-large figcaption { font-size: 13px; margin-top: 4px; }
dialog.rcdm-large button { display: block; margin: 12px auto 0; padding: 6px 18px; border-radius: 6px;
  border: 1px solid var(--block-border-color); }
#to-controls { display: none; }
@media (max-width: 640px) {
  .results { order: -1; }
  .question, .rcdm.sheet > .given p.how { display: none; }
  .intro p { font-size: 13px; line-height: 1.35; }
  .results .tab-container button { padding: 6px 4px; font-size: 11.5px; }
  .actions { position: fixed; inset: auto 0 0 0; z-index: 30; padding: 6px 8px; flex-wrap: nowrap !important;
    gap: 6px !important; background: var(--body-background-fill); border-top: 1px solid var(--block-border-color); }
  .actions button { min-width: 0 !important; padding: 6px 2px; font-size: 12px; white-space: nowrap; }
  .actions #next-row { font-size: 0; }
  .actions #next-row::after { content: "Add row"; font-size: 12px; }
  .actions #to-controls { display: block; }
  .more .actions { position: static; padding: 0; border: 0; }
  .rcdm section { padding: 8px; }
  .rcdm .columns { column-gap: 8px; grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .rcdm h1 { font-size: 18px; }
  .rcdm .draws { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .rcdm .kept { grid-template-columns: 1fr auto; grid-auto-flow: row dense; gap: 2px 8px; }
  .rcdm .kept .track { grid-column: 1 / -1; margin-bottom: 4px; }
  .rcdm.sheet > .given { display: flow-root; font-size: 12.5px; line-height: 1.35; }
  .rcdm.sheet > .given img { float: left; width: 64px; margin: 0 10px 2px 0; }
  .rcdm .reel { grid-template-columns: 72px 1fr; }
  .rcdm .columns .reel { grid-template-columns: 1fr; }
}
"""

# Gradio lets rules of CSS within @media act inside the page's container alone. Below: room for the bar of buttons, and
# no anchor, by which drawings that grow would push themselves out of sight.
HEAD = """<style>
@media (max-width: 640px) {
  .gradio-container { padding-bottom: 60px !important; overflow-anchor: none; }
}
</style>
<script>
document.addEventListener("click", (event) => {
  const button = event.target.closest(".rcdm .look");
  if (!button) return;
  let dialog = document.querySelector("dialog.rcdm-large");
  if (!dialog) {
    dialog = document.createElement("dialog");
    dialog.className = "rcdm-large";
    dialog.addEventListener("click", (click) => {
      if (click.target === dialog || click.target.tagName === "BUTTON") dialog.close();
    });
    (document.querySelector(".gradio-container") || document.body).append(dialog);
  }
  const given = button.closest(".sheet").querySelector(".given img");
  const shown = [given, button.querySelector("img")].filter(Boolean);
  const frame = document.createElement("div");
  for (const image of shown) {
    const figure = document.createElement("figure"), words = document.createElement("figcaption");
    words.textContent = image.alt;
    figure.append(image.cloneNode(), words);
    frame.append(figure);
  }
  const close = document.createElement("button");
  close.textContent = "Close";
  dialog.replaceChildren(frame, close);
  dialog.setAttribute("aria-label", shown.at(-1).alt);
  dialog.showModal();
});
document.addEventListener("click", (event) => {
  if (!event.target.closest(".actions button.primary") || !matchMedia("(max-width: 640px)").matches) return;
  document.querySelector(".results").scrollIntoView({ behavior: "smooth" });
});
document.addEventListener("input", (event) => {
  if (!event.target.matches(".rcdm input.steps")) return;
  const step = Number(event.target.value), frames = event.target.closest(".frames");
  frames.querySelector("output").textContent = event.target.dataset.labels.split("|")[step];
  for (const ladder of frames.querySelectorAll(".ladder")) {
    const all = [...ladder.querySelectorAll(".frame")];
    all.forEach((frame, i) => frame.classList.toggle("on", i === step));
    const drawn = all[step].querySelectorAll("img");
    ladder.querySelectorAll(".big img").forEach((image, k) => {
      image.src = drawn[k].src;
      image.alt = drawn[k].alt;
    });
  }
});
document.addEventListener("click", (event) => {
  const frame = event.target.closest(".rcdm .frame");
  if (!frame) return;
  const slider = frame.closest(".frames").querySelector("input.steps");
  slider.value = frame.dataset.step;
  slider.dispatchEvent(new Event("input", { bubbles: true }));
});
</script>"""
