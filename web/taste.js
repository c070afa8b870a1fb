// "Taste" as a sidebar tab and as a page over the whole window: which of two pictures is better, and what was learned.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { ANSWERED, CHOSEN, NEWS, element, loadWords, t } from "./common.js";
import { waiting } from "./people.js";
import { Panel } from "./taste_panel.js";

const TAB = "ppd-taste";
const COMMAND = "ppd.rate";
/** @type {Panel | null} */
let panel = null;

async function opened() {
    await loadWords();
    panel ??= new Panel();
    return panel;
}

// The count of what waits for the tab's person. A string on the registered tab: a function is asked once only
async function showBadge() {
    const open = (await waiting())?.waiting;
    const tab = app.extensionManager.sidebarTab.sidebarTabs.find(({ id }) => id === TAB);
    if (tab) tab.iconBadge = open ? String(open) : null;
}

app.registerExtension({
    name: "ppd.taste",
    commands: [{ id: COMMAND, icon: "pi pi-heart", label: () => t("command"), function: async () => (await opened()).openPage() }],
    keybindings: [{ combo: { key: "t", alt: true }, commandId: COMMAND }],
    afterConfigureGraph: () => panel?.render(), // what can be painted is another workflow's now
    async setup() {
        await loadWords();
        document.head.append(element("link", { rel: "stylesheet", href: new URL("taste.css", import.meta.url).href }));
        app.extensionManager.registerSidebarTab({
            id: TAB,
            icon: "pi pi-heart",
            title: t("taste"),
            tooltip: t("tooltip"),
            type: "custom",
            render: async (root) => (await opened()).openTab(root),
            destroy: () => panel?.closeTab(),
        });
        for (const name of /** @type {const} */ ([NEWS, CHOSEN, ANSWERED])) api.addEventListener(name, showBadge);
        await showBadge();
    },
});
