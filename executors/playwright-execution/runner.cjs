// Runs specs and tells what comes of them: one JSON object a line, to the file descriptor that is the argument.
//
// Playwright's command loads specs into the process that reports on them. What its editor extensions use has child
// processes load them, too; as root, we give those to the student's user. So no spec reaches this process.
const child_process = require('node:child_process');
const fs = require('node:fs');
const { testRunner } = require('playwright/lib/runner');
const printable = require('./printable.cjs');

const STUDENT = process.getuid() === 0 ? { uid: 65533, gid: 65533 } : {};
const SILENCE_S = 2 * Number(process.env.TEST_TIMEOUT_S) + 10; // for a test, to tidy up after it, and to start a browser
const STUCK = `Nothing happened for ${SILENCE_S} s, so it was stopped. Is there a loop that does not end?`;

let child; // loads the specs, or runs tests
let running; // the test that has begun
let stuck; // the test that was stopped
let silence; // the timer that ends it

const { fork } = child_process;
child_process.fork = (file, options) => {
  heard();
  return (child = fork(file, { ...options, ...STUDENT }));
};
process.umask(0); // the student's user leaves pictures and traces in directories that are made here

function tell(event) {
  fs.writeSync(Number(process.argv[2]), printable(event) + '\n');
}

function heard() {
  clearTimeout(silence);
  silence = setTimeout(stop, SILENCE_S * 1000).unref(); // does not keep us when there is nothing left to hear
}

function stop() {
  if (running) stuck = running;
  else tell({ error: told({ message: STUCK }) });
  // This root may not signal another user's process.
  child_process.spawnSync('sh', ['-c', 'kill -KILL $0', String(child.pid)], STUDENT);
}

function told({ message, value, location }) {
  return { message: message ?? value ?? '', file: location?.file ?? null, line: location?.line ?? null };
}

function expectations(steps) {
  return steps.reduce((sum, step) => sum + (step.category === 'expect') + expectations(step.steps), 0);
}

function endOf(test, result) {
  const { file, line } = test.location;
  return {
    title: test.titlePath().slice(3).join(' › '), // without root, project and file
    file,
    line,
    status: result.status,
    expected: test.expectedStatus,
    duration_s: typeof result.duration === 'number' ? result.duration / 1000 : null,
    errors: test === stuck ? [told({ message: STUCK })] : result.errors.map(told),
    expectations: expectations(result.steps),
    attachments: result.attachments.flatMap(({ path }) => path ?? []),
  };
}

const reporter = {
  version: () => 'v2',
  onTestBegin(test) {
    heard();
    running = test;
  },
  onStepBegin: heard,
  onStdOut: (chunk) => process.stdout.write(chunk),
  onStdErr: (chunk) => process.stdout.write(chunk),
  onTestEnd(test, result) {
    heard();
    running = undefined;
    let ended = {};
    try {
      ended = endOf(test, result);
    } catch {} // what its process said of it was no result, and Playwright would pass over the exception
    tell({ test: ended });
  },
  onError: (error) => tell({ error: told(error) }),
};

async function main() {
  const location = { configDir: __dirname, resolvedConfigFile: `${__dirname}/playwright.config.cjs` };
  const runner = new testRunner.TestRunner(location, {});
  await runner.initialize({});
  await runner.runTests(reporter, { failOnLoadErrors: true, disableConfigReporters: true });
  tell({ complete: true });
  process.exit(); // what a child left open does not matter any more
}

main();
