// The root of the dashboard, from the address of this file: static/<digest>/site.js. A proxy may serve
// the dashboard below a path, so no script uses an address that begins with a slash.
export const siteRoot = new URL("../../", import.meta.url).href;
