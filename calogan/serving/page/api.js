// The public API of the endpoint: the models it serves, and showers.

export const CELLS = 25 ** 3;
const PATIENCE_S = 20; // how long one wait for a busy endpoint may be
const TRIES = 4;

/** An answer that is no success, or none at all; its message can be shown as it is. */
export class ApiError extends Error {
  constructor(message, status = 0, retryAfter = Infinity) {
    super(message);
    Object.assign(this, { status, retryAfter });
  }
}

/** The served models: {models, max_showers, server, isa}. */
export async function listModels(key) {
  return (await ask("v1/models", { headers: authorization(key) })).json();
}

/** The body of a request for showers; the seed stays text, for it may be above 2^53. */
export function body({ energy, n, seed, precision }) {
  return `{"energy": ${energy}, "n": ${n}, "seed": ${seed}, "precision": ${JSON.stringify(precision)}}`;
}

/**
 * Showers of one precision.
 *
 * Returns {showers, n, ms, version}: energy per cell in GeV, cell (x, y, z) of shower i at i * 25^3 + (x * 25 + y) * 25 + z,
 * and the time from the request to the last byte. A busy endpoint is asked again after the seconds it names, if they are
 * few; `waiting` is told of them.
 */
export async function draw(key, order, signal, waiting) {
  for (let left = TRIES - 1; ; left--) {
    try {
      return await drawOnce(key, order, signal);
    } catch (error) {
      if (!left || !(error.retryAfter <= PATIENCE_S)) throw error;
      waiting(error.retryAfter);
      await pause(error.retryAfter, signal);
    }
  }
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    setTimeout(resolve, 1000 * seconds);
    signal.addEventListener("abort", () => reject(signal.reason));
  });
}

async function drawOnce(key, order, signal) {
  const start = performance.now();
  const answer = await ask("v1/showers", {
    method: "POST",
    headers: { ...authorization(key), "Content-Type": "application/json", Accept: "application/x-float32" },
    body: body(order),
    signal,
  });
  const bytes = await answer.arrayBuffer().catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The connection ended before the last shower. Draw again.");
  });
  const ms = performance.now() - start;
  if (bytes.byteLength !== order.n * CELLS * 4) {
    throw new ApiError(`The answer has ${bytes.byteLength} bytes instead of ${order.n * CELLS * 4}. Draw again.`);
  }
  return { showers: new Float32Array(bytes), n: order.n, ms, version: answer.headers.get("X-Model-Version") };
}

function authorization(key) {
  return { Authorization: `Bearer ${key}` };
}

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, { cache: "no-store", credentials: "omit", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The endpoint does not answer. Is it running, and is this computer connected to it?");
  }
  if (answer.ok) return answer;
  const content = await answer.json().catch(() => null);
  const message = content?.error?.message ?? `the endpoint answers ${answer.status} ${answer.statusText}`;
  const wait = answer.headers.get("Retry-After");
  const after = wait && !message.includes("try again in") ? ` (in ${wait} s)` : "";
  const text = `${message[0].toUpperCase()}${message.slice(1)}${after}.`;
  throw new ApiError(text, answer.status, wait ? Number(wait) : Infinity);
}
