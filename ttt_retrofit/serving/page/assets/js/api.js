// What the page asks of the server that it came from.

async function reply(method, path, body) {
  const json = body === undefined ? {} : { headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(path, { method, ...json });
  } catch {
    throw new Error("The program behind this page does not answer. Is it still running?");
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => null);
  throw new Error(told?.error?.message ?? `The program behind this page answered ${answer.status}.`);
}

const json = async (...asked) => (await reply(...asked)).json();

export const get = (path) => json("GET", path);
export const post = (path, body = {}) => json("POST", path, body);
export const remove = (path) => json("DELETE", path);

/** Send a message, and call `piece` with each piece of the answer. */
export async function send(chat, said, piece) {
  const answer = await reply("POST", `page/chats/${chat}/messages`, said);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const told = JSON.parse(line);
      if (told.error) throw new Error(told.error);
      piece(told.piece);
    }
  }
}
