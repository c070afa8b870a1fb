// The open workflow paints the next pair: only where it files questions, and only while nothing else is painted.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

let waiting = 0; // runs in the queue
api.addEventListener("status", ({ detail }) => (waiting = detail?.exec_info?.queue_remaining ?? 0));

function collects(graph) {
    return (graph?.nodes ?? []).some((node) => node.comfyClass === "PreferenceCollector" || collects(node.subgraph));
}

export const canPaint = () => collects(app.graph);

export async function paint() {
    const focused = document.activeElement;
    if (waiting || !canPaint()) return;
    await app.queuePrompt(0);
    if (document.activeElement !== focused) focused?.focus({ preventScroll: true });
}
