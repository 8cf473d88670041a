// What a program that uses @vercel/blob sees of the store, as one JSON object on stdout.
import { copy, del, head, issueSignedToken, list, presignUrl, put } from "@vercel/blob";

const [pathname, objectUrl] = process.argv.slice(2);
const access = process.env.ACCESS;
const options = { access, addRandomSuffix: false, allowOverwrite: true };
const told = {};

const failure = async (call) => {
  try {
    await call();
    return null;
  } catch (error) {
    return error.constructor.name;
  }
};

// What was stored by vidgen.
told.head = await head(pathname);
told.listed = (await list({ prefix: pathname })).blobs.map((blob) => blob.pathname);

// What is stored by the package.
const small = await put("js/small.txt", "small", { ...options, contentType: "text/plain" });
told.small = small.pathname;
told.again = (await put("js/small.txt", "other", options)).pathname;
told.refused = await failure(() => put("js/small.txt", "third", { access, allowOverwrite: false }));
told.suffixed = (await put("js/name.txt", "x", { access, addRandomSuffix: true })).pathname;
const large = Buffer.alloc(20 * 1024 * 1024, "0123456789abcdef");
const whole = await put("js/large.bin", large, { ...options, multipart: true });
told.large = (await head(whole.url)).size;
told.copied = (await copy(whole.url, "js/copy.bin", options)).pathname;

told.pages = [];
let cursor;
do {
  const page = await list({ prefix: "js/", limit: 2, cursor });
  told.pages.push(page.blobs.map((blob) => blob.pathname));
  cursor = page.hasMore ? page.cursor : undefined;
} while (cursor);

// An address that the package signs, asked of the simulator instead of the store's host.
const validUntil = Date.now() + 60_000;
const token = await issueSignedToken({ pathname: "js/small.txt", operations: ["get"], validUntil });
told.signed = {};
for (const [name, until] of [["whole", validUntil], ["shorter", validUntil - 30_000]]) {
  const { presignedUrl } = await presignUrl(token, {
    pathname: "js/small.txt", operation: "get", access, validUntil: until,
  });
  const url = new URL(presignedUrl);
  const answer = await fetch(`${objectUrl}${url.pathname}${url.search}`);
  told.signed[name] = [answer.status, await answer.text()];
  told.host = url.host;
  if (name === "whole") {
    told.token = token.clientSigningToken;
    told.signature = url.searchParams.get("vercel-blob-signature");
  }
}
told.bare = (await fetch(`${objectUrl}/js/small.txt`)).status;

await del([whole.url, "js/copy.bin", "js/never-there.txt"]);
told.gone = await failure(() => head("js/large.bin"));
told.denied = await failure(() => head("js/small.txt", { token: `${process.env.BLOB_READ_WRITE_TOKEN}x` }));
console.log(JSON.stringify(told));
