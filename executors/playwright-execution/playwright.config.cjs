// The only configuration: one of the submission's would be its code in the runner.
const timeout = Number(process.env.TEST_TIMEOUT_S) * 1000;

module.exports = {
  testDir: process.env.SPECS_DIR,
  outputDir: '/tmp/submission/test-results',
  timeout,
  workers: 1, // tests neither wait for nor disturb each other
  retries: 0, // one that passes now and then does not pass
  updateSnapshots: 'none', // a first picture would be compared with itself
  use: {
    baseURL: 'http://127.0.0.1:8000',
    launchOptions: { executablePath: '/usr/bin/chromium-headless-shell' },
    screenshot: 'only-on-failure',
    // Specs that an image brings are not handed out: neither as sources nor in what Playwright attaches for assistants.
    trace: { mode: 'retain-on-failure', sources: false, attachments: false },
  },
};
