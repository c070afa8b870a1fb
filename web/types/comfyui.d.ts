// What we use of ComfyUI's frontend. Its own types are not published for the versions that we run in.

declare namespace Comfy {
    interface Widget {
        name: string;
        value: unknown;
        options: { values?: string[]; min?: number; max?: number; getOptionLabel?: (value?: string | null) => string };
        label?: string;
        tooltip?: string;
        serialize?: boolean;
        callback?: (...given: unknown[]) => unknown;
        beforeQueued?: () => void;
    }

    interface DOMWidgetOptions {
        serialize: boolean;
        hideInPanel: boolean;
        selectOn: string[];
        getMinHeight: () => number;
        hideOnZoom?: boolean;
    }

    interface Node {
        id: number | string;
        type: string;
        pos: [x: number, y: number];
        inputs: { name: string }[];
        outputs: { links: number[] | null }[];
        mode: number;
        graph: Graph | null;
        subgraph?: Graph;
        widgets?: Widget[];
        constructor: { comfyClass?: string };
        addWidget(type: string, name: string, value: unknown, callback: () => void, options: object): Widget;
        addDOMWidget(name: string, type: string, element: HTMLElement, options: DOMWidgetOptions): Widget;
        computeSize(): [number, number];
        setSize(size: [number, number]): void;
    }

    interface Link {
        target_id: Node["id"];
        target_slot: number;
    }

    interface Graph {
        id: string;
        nodes: Node[];
        links: Map<number, Link>;
        extra: Workflow["extra"];
        getNodeById(id: string): Node | null;
    }

    // A workflow as it is saved
    interface Workflow {
        groups?: { title: string }[];
        nodes?: { title?: string; type: string; widgets_values?: string[] }[];
        extra?: { ppd?: string };
    }

    // A graph as it is queued: nodes by id; an input that hangs on another node is that one's id and the output's place
    type Output = Record<string, { class_type: string; inputs: Record<string, any> }>;
    interface Prompt {
        output: Output;
        workflow: object;
    }

    interface Picture {
        filename: string;
        subfolder: string;
        type: string;
    }

    // What a node has put out: pictures, and what our nodes tell their widgets
    interface NodeOutput {
        images?: Picture[];
        ppd_question?: PPD.Asked[];
        ppd_notes?: string[];
        ppd_blind_test?: { id: string; person: string }[];
    }

    interface Events {
        executed: { node: string; display_node?: string; prompt_id: string; output: NodeOutput | null };
        execution_error: { prompt_id: string };
        execution_interrupted: { prompt_id: string };
        reconnected: undefined;
        "ppd.taste": PPD.News;
        "ppd.news": PPD.News;
        "ppd.person": undefined;
        "ppd.answered": PPD.Answered;
        "ppd.question": { node: string; questions: PPD.Asked[] };
    }

    interface Api {
        apiURL(path: string): string;
        fetchApi(path: string, options?: RequestInit): Promise<Response>;
        addEventListener<Name extends keyof Events>(name: Name, heard: (event: CustomEvent<Events[Name]>) => void): void;
        dispatchCustomEvent<Name extends keyof Events>(name: Name, detail?: Events[Name]): void;
        queuePrompt(place: number, prompt: Prompt): Promise<{ prompt_id: string }>;
        getWorkflowTemplates(): Promise<Record<string, string[]>>;
        getCustomNodesI18n(): Promise<Record<string, { ppd?: Record<string, string> } | undefined>>;
    }

    interface SidebarTab {
        id: string;
        icon: string;
        title: string;
        tooltip: string;
        type: "custom";
        render: (root: HTMLElement) => void;
        destroy: () => void;
        iconBadge?: string | null;
    }

    interface Extension {
        name: string;
        commands?: { id: string; icon: string; label: () => string; function: () => void }[];
        keybindings?: { combo: { key: string; alt?: boolean }; commandId: string }[];
        init?(): Promise<void>;
        setup?(): void | Promise<void>;
        getCustomWidgets?(): Record<string, (node: Node, name: string, input: [string, { default?: string; tooltip?: string }]) => { widget: Widget }>;
        beforeConfigureGraph?(graph: Workflow): Promise<void>;
        afterConfigureGraph?(): void;
        nodeCreated?(node: Node): void;
        loadedGraphNode?(node: Node): void;
        onNodeOutputsUpdated?(outputs: Record<string, NodeOutput>): void;
        refreshComboInNodes?(): Promise<void>;
    }

    interface App {
        graph: Graph;
        canvas: {
            canvas: HTMLCanvasElement;
            ds: { scale: number; offset: [x: number, y: number]; convertOffsetToCanvas(at: [x: number, y: number]): [x: number, y: number] };
            setDirty(foreground: boolean, background: boolean): void;
            processMouseWheel(event: WheelEvent): void;
        };
        nodeOutputs?: Record<string, NodeOutput>;
        graphToPrompt(...given: unknown[]): Promise<Prompt>;
        queuePrompt(place: number): Promise<boolean>;
        refreshComboInNodes?(): Promise<void>;
        registerExtension(extension: Extension): void;
        extensionManager: {
            setting: { get(name: string): any };
            dialog: {
                prompt(asked: { title: string; message: string; defaultValue: string }): Promise<string | null>;
                confirm(asked: { title: string; message: string; type?: "delete" }): Promise<boolean | null>;
            };
            toast: { add(message: { severity: "info"; summary: string; detail: string; life: number }): void };
            sidebarTab: { sidebarTabs: SidebarTab[] };
            registerSidebarTab(tab: SidebarTab): void;
        };
    }
}

declare const LiteGraph: {
    ALWAYS: number;
    registered_node_types: Record<string, { nodeData?: { output_node?: boolean; input?: Record<"required" | "optional", Record<string, [type: unknown, options?: Record<string, unknown>]> | undefined> } }>;
};
