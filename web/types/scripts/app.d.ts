export const app: Comfy.App;
