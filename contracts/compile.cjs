// Standard JSON in, standard JSON out: the compiler (argument 1, soljson.js of npm's solc) as it is, without its wrapper.
// The wrapper needs packages of others; the compiler needs none. No import is resolved: all sources are in the input.
const compiler = require(process.argv[2]);

function compile() {
  const solidityCompile = compiler.cwrap("solidity_compile", "string", ["string", "number", "number"]);
  let input = "";
  process.stdin.setEncoding("utf8");
  process.stdin.on("data", (part) => (input += part));
  process.stdin.on("end", () => process.stdout.write(solidityCompile(input, 0, 0)));
}

if (compiler.calledRun) compile();
else compiler.onRuntimeInitialized = compile;
