"""The style sheet of the page: one column that fits a phone, light and dark."""

CSS = """
:root { --ink: #1f2937; --soft: #6b7280; --line: #e5e7eb; --page: #f6f7f9; --card: #ffffff; --code: #f3f4f6;
  --right: #15803d; --wrong: #b91c1c; --unclear: #92400e; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --ink: #e5e7eb; --soft: #9ca3af; --line: #333a45; --page: #101317;
  --card: #191d23; --code: #23282f; --right: #4ade80; --wrong: #f87171; --unclear: #fbbf24; }
  figure img { filter: invert(1) hue-rotate(180deg); mix-blend-mode: screen; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.5rem 0 0.2rem; }
h2 { font-size: 1.2rem; margin: 0 0 0.8rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 0.5rem; }
p { margin: 0.4rem 0; }
.soft, figcaption, caption { color: var(--soft); font-size: 0.9rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1.2rem 1.3rem;
  margin-top: 1.2rem; }
.verdict { border-left: 6px solid var(--unclear); font-size: 1.08rem; }
.verdict.rise { border-left-color: var(--right); }
.verdict.fall, .verdict.collapse { border-left-color: var(--wrong); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 0.94rem; }
caption { text-align: left; padding-bottom: 0.4rem; }
th, td { text-align: right; padding: 0.4rem 0.6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; }
th:first-child, td:first-child { text-align: left; padding-left: 0; min-width: 6.5rem; }
.left th, .left td { text-align: left; }
td small { color: var(--soft); white-space: nowrap; display: block; }
td.long { overflow-wrap: anywhere; font-family: ui-monospace, Menlo, Consolas, monospace; font-size: 0.82rem; }
figure { margin: 0 0 1rem; }
figure img { display: block; width: 100%; height: auto; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 0.5rem 1.5rem; }
.example { border-top: 1px solid var(--line); padding: 0.9rem 0 0.4rem; }
.example .question { white-space: pre-wrap; overflow-wrap: anywhere; font-weight: 600; }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 280px), 1fr)); gap: 0.8rem; }
pre { background: var(--code); border-radius: 8px; padding: 0.6rem 0.7rem; margin: 0.3rem 0; max-height: 12rem;
  overflow: auto; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 0.82rem; line-height: 1.45; }
.counts { display: block; }
.right { color: var(--right); font-weight: 600; }
.wrong { color: var(--wrong); font-weight: 600; }
summary { cursor: pointer; font-weight: 600; padding: 0.3rem 0; }
@media (max-width: 600px) { section { padding: 1rem 0.9rem; } body { font-size: 15px; }
  .wide { overflow-x: auto; } figure.wide img { width: 44rem; max-width: none; } }
@media print { body { background: none; } section { break-inside: avoid; } pre { max-height: none; } }
"""
