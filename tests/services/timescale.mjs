// Serves TimescaleDB, compiled to WebAssembly, on the protocol of PostgreSQL.
//
//     node timescale.mjs PACKAGE_FOLDER PORT
//
// PGlite is a single backend without a network. This gives it one, and hides that it is single:
// clients take turns at the ends of transactions, as behind a pooler. What a transaction pooler
// shares is shared here as well: settings of a session, temporary tables, advisory locks.
import { createServer } from "node:net";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [packageFolder, port] = process.argv.slice(2);
const load = (file) => import(pathToFileURL(join(packageFolder, "dist", file)));
const { PGlite } = await load("index.js");
const { timescaledb } = await load("timescaledb/index.js");

// The longest that a client waits for another's transaction, so that a deadlock names itself.
const TURN_MS = 30_000;
const SSL_REQUEST = 80877103;
const GSS_REQUEST = 80877104;
const CANCEL_REQUEST = 80877102;
const COPY_FILE = "/tmp/copied";
const COPY_IN = /^\s*copy\s[^]*\sfrom\s+stdin\b/i;
const COPY_BINARY = /\sfrom\s+stdin\b[^]*\bbinary\b/i;
// The backend starts with the messages of a debugger.
const SETTINGS = "SET search_path TO public; SET client_min_messages TO notice; SET timezone TO 'UTC'";

const database = await PGlite.create({ database: "postgres", extensions: { timescaledb } });
await database.exec(`CREATE EXTENSION IF NOT EXISTS timescaledb; ${SETTINGS}`);

const text = (value) => Buffer.from(`${value}\0`);

function message(type, ...parts) {
  const body = Buffer.concat(parts);
  const head = Buffer.alloc(5);
  head.write(type, 0, "latin1");
  head.writeInt32BE(body.length + 4, 1);
  return Buffer.concat([head, body]);
}

const ready = (status) => message("Z", Buffer.from(status));

function error(code, words) {
  const field = (letter, value) => Buffer.concat([Buffer.from(letter), text(value)]);
  const fields = [field("S", "ERROR"), field("V", "ERROR"), field("C", code), field("M", words)];
  return message("E", ...fields, Buffer.from([0]));
}

// A packet is no message: a long one comes in pieces, and one piece can hold several.
async function execute(bytes) {
  try {
    return Buffer.from(await database.execProtocolRaw(new Uint8Array(bytes), { syncToFs: false }));
  } catch (failure) {
    // What the module has done so far is unknown, and nothing can be asked of it again.
    console.error("the backend has crashed:", failure);
    process.exit(1);
  }
}

const query = (sql) => execute(message("Q", text(sql)));

// Turns: `holder` has the backend from its first message until its transaction has ended.
let holder = null;
const waiting = [];
const sessions = new Set();

async function turn(session) {
  if (holder === null) holder = session;
  if (holder === session) return true;
  return new Promise((resolve) => {
    const waiter = { session, resolve };
    waiter.timer = setTimeout(() => {
      waiting.splice(waiting.indexOf(waiter), 1);
      resolve(false);
    }, TURN_MS);
    waiting.push(waiter);
  });
}

function pass(session) {
  if (holder !== session) return;
  const next = waiting.shift();
  holder = next?.session ?? null;
  if (next) {
    clearTimeout(next.timer);
    next.resolve(true);
  }
}

class Session {
  static count = 0;

  constructor(socket) {
    this.socket = socket;
    this.name = `client${(Session.count += 1)}_`;
    this.received = Buffer.alloc(0);
    this.greeted = false;
    this.status = "I";
    this.copied = null;
    this.busy = Promise.resolve();
    sessions.add(this);
    socket.setNoDelay(true);
    socket.on("data", (bytes) => this.enqueue(() => this.read(bytes)));
    socket.on("error", () => socket.destroy());
    socket.on("close", () => this.enqueue(() => this.end()));
  }

  enqueue(work) {
    this.busy = this.busy.then(work);
  }

  async read(bytes) {
    this.received = this.received.length ? Buffer.concat([this.received, bytes]) : bytes;
    const head = () => (this.greeted ? 1 : 0);
    while (!this.socket.destroyed && this.received.length >= head() + 4) {
      const size = head() + this.received.readInt32BE(head());
      if (this.received.length < size) return;
      const whole = this.received.subarray(0, size);
      this.received = this.received.subarray(size);
      await (this.greeted ? this.handle(whole) : this.greet(whole));
    }
  }

  async greet(whole) {
    const request = whole.readInt32BE(4);
    if (request === SSL_REQUEST || request === GSS_REQUEST) return this.socket.write("N");
    if (request === CANCEL_REQUEST) return this.socket.end();
    this.greeted = true;
    const facts = {
      server_version: "17.5",
      server_encoding: "UTF8",
      client_encoding: "UTF8",
      DateStyle: "ISO, MDY",
      TimeZone: "UTC",
      integer_datetimes: "on",
      standard_conforming_strings: "on",
    };
    this.socket.write(message("R", Buffer.alloc(4)));
    for (const [name, value] of Object.entries(facts)) {
      this.socket.write(message("S", text(name), text(value)));
    }
    this.socket.write(message("K", Buffer.alloc(8)));
    this.socket.write(ready("I"));
  }

  async handle(whole) {
    const type = String.fromCharCode(whole[0]);
    if (type === "X") return this.socket.end();
    if (!(await turn(this))) {
      this.socket.end(error("55P03", `another client has been in a transaction for ${TURN_MS} ms`));
      return;
    }
    const reply = this.copied ? await this.copy(type, whole) : await this.ask(type, whole);
    this.socket.write(reply);
    // A ReadyForQuery, if there is one, is the end of the reply.
    if (reply.length >= 6 && reply.at(-6) === 0x5a && reply.readInt32BE(reply.length - 5) === 5) {
      this.status = String.fromCharCode(reply.at(-1));
      if (this.status === "I") pass(this);
    }
  }

  async ask(type, whole) {
    const sql = type === "Q" ? whole.subarray(5, -1).toString() : "";
    if (COPY_IN.test(sql)) {
      this.copied = { sql, parts: [] };
      const binary = COPY_BINARY.test(sql) ? 1 : 0;
      return message("G", Buffer.from([binary, 0, 0]));
    }
    return execute(this.rename(type, whole));
  }

  // The backend reads a COPY from a file; from a client it cannot.
  async copy(type, whole) {
    if (type === "d") this.copied.parts.push(Buffer.from(whole.subarray(5)));
    if (type !== "c" && type !== "f") return Buffer.alloc(0);
    const { sql, parts } = this.copied;
    this.copied = null;
    if (type === "f") {
      // Fails the transaction too, as the real one does.
      await query("COPY FAILED");
      const status = this.status === "I" ? "I" : "E";
      return Buffer.concat([error("57014", "COPY from stdin failed"), ready(status)]);
    }
    database.Module.FS.writeFile(COPY_FILE, Buffer.concat(parts));
    const reply = await query(sql.replace(/(\sfrom\s+)stdin\b/i, `$1'${COPY_FILE}'`));
    database.Module.FS.unlink(COPY_FILE);
    return reply;
  }

  // The prepared statements of clients are in one room, so each is given the name of its client.
  rename(type, whole) {
    let start = 5;
    if (type === "B") start = whole.indexOf(0, 5) + 1;
    else if ((type === "D" || type === "C") && whole[5] === 0x53) start = 6;
    else if (type !== "P") return whole;
    if (whole[start] === 0) return whole;
    const body = [whole.subarray(5, start), Buffer.from(this.name), whole.subarray(start)];
    return message(type, ...body);
  }

  async end() {
    sessions.delete(this);
    if (holder === this) {
      await execute(message("S"));
      await query("ROLLBACK");
    }
    if (sessions.size === 0) {
      await query("DISCARD ALL");
      await query(SETTINGS);
    }
    pass(this);
  }
}

createServer((socket) => new Session(socket)).listen(Number(port), "127.0.0.1");
