// The networks of one model in ONNX Runtime Web, in a worker.

const RUNTIMES = { wasm: ["ort.wasm.js", "ort-wasm-simd-threaded"], webgpu: ["ort.webgpu.js", "ort-wasm-simd-threaded.asyncify"] };
// With its own layout, NHWC, WebGPU of ONNX Runtime Web 1.30 refuses these networks: it infers other shapes than it has declared.
const PROVIDERS = { wasm: "wasm", webgpu: { name: "webgpu", preferredLayout: "NCHW" } };
const runtimes = {};

// Loads a model. `report` gets the bytes that have come and those that are expected.
export async function loadNetworks(model, report) {
  const provider = model.provider;
  const total = model.files.mapping.bytes + model.files.synthesis.bytes + (provider in runtimes ? 0 : model.runtime_bytes[provider]);
  let loaded = 0;
  const fetched = (path) => fetchBytes(new URL(`../${path}`, import.meta.url), (count) => report((loaded += count), total));
  runtimes[provider] ??= loadRuntime(provider, model.threads, fetched).catch((error) => {
    delete runtimes[provider]; // the next picture tries again
    throw error;
  });
  const [ort, mapping, synthesis] = await Promise.all([runtimes[provider], fetched(model.files.mapping.path), fetched(model.files.synthesis.path)]);
  report(total, total);
  const session = (network, name) => ort.InferenceSession.create(network, { executionProviders: [PROVIDERS[name]], logSeverityLevel: 3 });
  // The mapping network is a few small products; a GPU would wait longer for its start than it computes.
  const mappingSession = await session(mapping, "wasm");
  const synthesisSession = await session(synthesis, provider);
  const tensor = ({ data, dims }) => new ort.Tensor("float32", data, dims);
  return {
    async map(inputs) {
      const feeds = Object.fromEntries(Object.entries(inputs).map(([name, value]) => [name, tensor(value)]));
      return (await mappingSession.run(feeds)).ws.data;
    },
    // The picture of ws [num_ws, w_dim], as bytes [side, side, channels].
    async synthesize(ws) {
      return (await synthesisSession.run({ ws: tensor({ data: ws, dims: [1, model.num_ws, model.w_dim] }) })).image.data;
    },
    async release() {
      await mappingSession.release();
      await synthesisSession.release();
    },
  };
}

async function loadRuntime(provider, threads, fetched) {
  const [script, native] = RUNTIMES[provider];
  const place = (name) => new URL(`../ort/${name}`, import.meta.url).href;
  const [ort, binary] = await Promise.all([import(place(script)), fetched(`ort/${native}.wasm`)]);
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = threads;
  ort.env.wasm.wasmPaths = { mjs: place(`${native}.js`) };
  ort.env.wasm.wasmBinary = binary;
  return ort;
}

async function fetchBytes(address, onBytes) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address.pathname} cannot be loaded: status ${answer.status}.`);
  const parts = [];
  const reader = answer.body.getReader();
  for (let step = await reader.read(); !step.done; step = await reader.read()) {
    parts.push(step.value);
    onBytes(step.value.length);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}
