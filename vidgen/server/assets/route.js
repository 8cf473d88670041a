// Where we are stands behind the # of the address: links, reloads and the back button just work.

export function current() {
  const [path, words] = (location.hash.slice(1) || "/").split("?");
  return { path, query: Object.fromEntries(new URLSearchParams(words ?? "")) };
}

export function hashOf(path, query = {}) {
  const words = new URLSearchParams(Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== ""));
  return `#${path}${words.size ? `?${words}` : ""}`;
}
