// Several files as one, in the format that `tar xf` takes (POSIX ustar).

const BLOCK = 512;
const text = new TextEncoder();

function header(name, size) {
  const block = new Uint8Array(BLOCK);
  const put = (at, value) => block.set(text.encode(value), at);
  const octal = (value, length) => `${value.toString(8).padStart(length - 1, "0")}\0`;
  put(0, name);
  put(100, octal(0o644, 8));
  put(108, octal(0, 8));
  put(116, octal(0, 8));
  put(124, octal(size, 12));
  put(136, octal(0, 12));
  put(148, " ".repeat(8));
  put(156, "0");
  put(257, "ustar\0" + "00");
  put(148, `${octal(block.reduce((sum, byte) => sum + byte, 0), 7)} `);
  return block;
}

/**
 * An archive of files below one folder.
 *
 * @param folder name that they unpack into; with a file's name 99 bytes at most
 * @param files `{name, content}` with contents as bytes
 */
export function tar(folder, files) {
  const parts = [];
  for (const { name, content } of files) {
    const path = `${folder}/${name}`;
    if (text.encode(path).length > 99) throw new RangeError(`${path} is too long a name for an archive`);
    parts.push(header(path, content.byteLength), content, new Uint8Array((BLOCK - (content.byteLength % BLOCK)) % BLOCK));
  }
  parts.push(new Uint8Array(2 * BLOCK));
  return new Blob(parts, { type: "application/x-tar" });
}
