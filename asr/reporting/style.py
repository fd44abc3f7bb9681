"""The style of a report: one style sheet, its colours as variables with a light and a dark value.

Plots use the same variables (see svg.py), so that they follow the reader's theme. Series colours can be distinguished
by readers with any colour vision (after Okabe and Ito, 2008) and have at least 3:1 contrast to the page in both themes.
"""

SERIES = 6
"""How many series colours there are: --series-0 to --series-5."""

STYLE = """
:root { color-scheme: light dark;
  --paper: #fcfcfb; --panel: #f3f4f4; --ink: #1c2126; --muted: #5c656e; --rule: #dddfe1; --accent: #0a6590;
  --wrong: #a8321a; --right: #1d6b3f; --shade: rgb(28 33 38 / 0.28);
  --series-0: #0072b2; --series-1: #c4500a; --series-2: #00805c; --series-3: #a8568a; --series-4: #8a6d00;
  --series-5: #59636e; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #14171a; --panel: #1c2024; --ink: #e3e6e9; --muted: #9aa4ae; --rule: #31373d; --accent: #6cbbe6;
  --wrong: #f08f78; --right: #74c69a; --shade: rgb(0 0 0 / 0.7);
  --series-0: #56b4e9; --series-1: #f0904c; --series-2: #2fbf95; --series-3: #d98bbb; --series-4: #d6b53c;
  --series-5: #a3adb8; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0 auto; max-width: 65rem; padding: 2.5rem 1.5rem 5rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1, h2, h3 { line-height: 1.2; font-weight: 650; letter-spacing: -0.012em; text-wrap: balance; overflow-wrap: anywhere; }
h1 { font-size: clamp(1.6rem, 1.2rem + 2vw, 2.3rem); margin: 0.15rem 0 0.4rem; }
h2 { font-size: 1.3rem; margin: 3.2rem 0 1.1rem; padding-top: 1rem; border-top: 1px solid var(--rule); }
h3 { font-size: 0.98rem; margin: 0 0 0.1rem; letter-spacing: 0; }
p { margin: 0.5rem 0 1rem; max-width: 46rem; }
a { color: var(--accent); text-underline-offset: 0.2em; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 3px; border-radius: 3px; }
.note, figcaption, .kicker, .facts { color: var(--muted); font-size: 0.875rem; }
.kicker { margin: 0; font-weight: 600; letter-spacing: 0.02em; }
.facts { margin: 0 0 1.8rem; max-width: none; overflow-wrap: anywhere; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.skip { position: absolute; left: -99rem; }
.skip:focus { left: 1rem; top: 1rem; background: var(--paper); padding: 0.4rem 0.8rem; }
nav { display: flex; flex-wrap: wrap; gap: 0.3rem 1.2rem; margin-top: 1.8rem; font-size: 0.875rem; }
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }
.tiles { display: grid; grid-template-columns: repeat(4, 1fr); gap: 1.4rem 1.8rem; margin: 0; }
.tiles.by-three { grid-template-columns: repeat(3, 1fr); }
.tiles > div { border-top: 2px solid var(--rule); padding-top: 0.55rem; }
.tiles > .chief { border-color: var(--accent); }
.tiles dt { color: var(--muted); font-size: 0.8125rem; overflow-wrap: anywhere; }
.tiles dd { margin: 0; }
.tiles .figure { display: block; font-size: 1.7rem; font-weight: 600; line-height: 1.25; letter-spacing: -0.02em; }
.tiles .aside { color: var(--muted); font-size: 0.8125rem; }
.figure, .aside, table, .pairs dd { font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; margin: 0 0 1.6rem; scrollbar-width: thin; scrollbar-color: var(--muted) var(--panel);
  background: linear-gradient(90deg, var(--paper) 40%, transparent) left / 3rem 100% no-repeat local,
    linear-gradient(270deg, var(--paper) 40%, transparent) right / 3rem 100% no-repeat local,
    linear-gradient(90deg, var(--shade), transparent) left / 1rem 100% no-repeat scroll,
    linear-gradient(270deg, var(--shade), transparent) right / 1rem 100% no-repeat scroll; }
td .aside, th .aside { display: block; color: var(--muted); font-size: 0.78rem; font-weight: 400; }
.better { color: var(--right) !important; }
.worse { color: var(--wrong) !important; }
[hidden], .unknown, .replaced { display: none !important; }
.controls { display: flex; flex-wrap: wrap; gap: 0.6rem 2rem; margin-top: 1.6rem; font-size: 0.875rem; }
.controls fieldset { border: 0; border-top: 2px solid var(--rule); padding: 0.4rem 0 0; margin: 0; min-width: 0;
  display: flex; flex-wrap: wrap; align-items: center; gap: 0.25rem 1.1rem; }
.controls legend { color: var(--muted); font-size: 0.8125rem; padding: 0 0.6rem 0 0; }
.controls label { display: inline-flex; align-items: center; gap: 0.35rem; overflow-wrap: anywhere; }
.controls svg { width: 1.5rem; height: 0.7rem; flex: none; }
input { accent-color: var(--accent); }
input[type=search] { font: inherit; color: inherit; background: var(--panel); border: 1px solid var(--rule);
  border-radius: 4px; padding: 0.2rem 0.5rem; max-width: 100%; }
thead th, thead .number { white-space: normal; }
thead th { color: var(--muted); font-weight: 500; font-size: 0.8125rem; vertical-align: bottom; }
table { border-collapse: collapse; font-size: 0.9rem; min-width: min(100%, 24rem); }
th, td { text-align: left; padding: 0.38rem 1.4rem 0.38rem 0; border-bottom: 1px solid var(--rule); }
tbody th { font-weight: 500; white-space: nowrap; }
tbody tr:last-child > * { border-bottom: 0; }
th:last-child, td:last-child { padding-right: 0; }
.number { text-align: right; white-space: nowrap; }
@media (min-width: 72rem) { #comparison .scroll:first-of-type, #runs .scroll { width: min(96vw, 92rem); margin-left: calc(50% - min(48vw, 46rem)); } }
#comparison tbody th, #runs tbody th { position: sticky; left: 0; background: var(--paper); z-index: 1; min-width: 7.5rem; max-width: 16rem;
  overflow-wrap: break-word; white-space: normal; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 27rem), 1fr)); gap: 2.2rem 2.4rem; }
figure { margin: 0; min-width: 0; position: relative; }
.wides { display: grid; gap: 1.6rem; margin: 1.8rem 0 1.6rem; grid-template-columns: minmax(0, 1fr); }
.scroll > figure { min-width: 38rem; }
.tip { position: absolute; right: 0; top: 0; max-width: 100%; padding: 0.35rem 0.6rem; border-radius: 4px; pointer-events: none;
  background: var(--ink); color: var(--paper); font-size: 0.78rem; line-height: 1.4; overflow-wrap: anywhere;
  font-variant-numeric: tabular-nums; z-index: 1; }
.tip.left { right: auto; left: 0; }
.cursor { stroke: var(--muted); stroke-width: 0.8; fill: none; pointer-events: none; }
.chosen path, .chosen use { stroke: var(--ink) !important; stroke-width: 1.2 !important; stroke-opacity: 1 !important; }
.stale header::before { content: "The server of this page is gone: what it shows is no longer renewed."; color: var(--wrong); }
figcaption { margin: 0 0 0.4rem; }
.plot { display: block; width: 100%; height: auto; overflow: visible; }
.plot * { stroke-linejoin: round; stroke-linecap: butt; }
.plot text { font-family: inherit !important; font-variant-numeric: tabular-nums; }
.wide { min-width: 38rem; }
.legend { display: flex; flex-wrap: wrap; gap: 0.1rem 1.1rem; margin: 0.2rem 0 0.6rem; padding: 0; list-style: none;
  font-size: 0.8125rem; color: var(--muted); }
.legend svg { width: 1.5rem; height: 0.7rem; margin-right: 0.4rem; }
.utterances { list-style: none; margin: 0 0 1.5rem; padding: 0; }
.utterances li { padding: 0.7rem 0; border-bottom: 1px solid var(--rule); overflow-wrap: anywhere; }
.utterances li:last-child { border-bottom: 0; }
.utterances .note { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 1rem; }
del { color: var(--wrong); text-decoration-thickness: 1px; }
ins { color: var(--right); text-decoration-thickness: 1px; text-underline-offset: 0.2em; }
.pairs { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: 0.3rem 1.5rem; margin: 0 0 1.5rem;
  font-size: 0.9rem; }
.pairs dt { color: var(--muted); overflow-wrap: anywhere; }
.pairs dd { margin: 0; overflow-wrap: anywhere; }
.lattices { display: grid; gap: 2.6rem; }
blockquote { margin: 0.3rem 0 0.9rem; font-size: 0.95rem; }
blockquote p { margin: 0; max-width: none; overflow-wrap: anywhere; }
blockquote .note { display: inline-block; min-width: 5.5rem; }
details { margin: 0 0 1rem; }
summary { cursor: pointer; font-weight: 500; margin-bottom: 0.7rem; }
pre { background: var(--panel); border-radius: 6px; padding: 1rem 1.2rem; overflow-x: auto; margin: 0;
  font: 0.8125rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 16rem), 1fr)); gap: 0.5rem 2.4rem; }
@media (max-width: 40rem) { body { padding: 1.5rem 1rem 3rem; } h2 { margin-top: 2.4rem; }
  .tiles, .tiles.by-three { grid-template-columns: 1fr 1fr; } .pairs { grid-template-columns: 1fr; gap: 0; }
  .pairs dd { margin-bottom: 0.5rem; } .tiles .figure { font-size: 1.4rem; } }
@media print { body { max-width: none; padding: 0; } nav, .skip { display: none; } figure, li { break-inside: avoid; } }
"""
