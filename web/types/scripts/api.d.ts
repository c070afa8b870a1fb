export const api: Comfy.Api;
