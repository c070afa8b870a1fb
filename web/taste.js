// "Taste" as a sidebar tab and as a page over the whole window: which of two pictures is better, and what was learned.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { ANSWERED, CHANGED, ask, element, isOwn, loadWords, t } from "./common.js";
import { Panel } from "./taste_panel.js";

const TAB = "ppd-taste";
const COMMAND = "ppd.rate";
let panel = null;

async function opened() {
    await loadWords();
    panel ??= new Panel();
    return panel;
}

// The count of what waits, on the tab's icon. A string on the registered tab: a function is asked once only
function showBadge(people) {
    const waiting = people.reduce((total, { open }) => total + open, 0);
    const tab = app.extensionManager.sidebarTab.sidebarTabs.find(({ id }) => id === TAB);
    if (tab) tab.iconBadge = waiting ? String(waiting) : null;
}

const readBadge = async () => showBadge((await ask("people")).people);

app.registerExtension({
    name: "ppd.taste",
    commands: [{ id: COMMAND, icon: "pi pi-heart", label: () => t("command"), function: async () => (await opened()).openPage() }],
    keybindings: [{ combo: { key: "t", alt: true }, commandId: COMMAND }],
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
        api.addEventListener(CHANGED, ({ detail }) => isOwn(detail) || readBadge());
        api.addEventListener(ANSWERED, () => showBadge(panel.people));
        await readBadge();
    },
});
