module.exports = {
  e2e: {
    supportFile: false,
    setupNodeEvents(on) {
      on('before:spec', () => process.kill(-1, 'SIGKILL')) // all that this user runs
    },
  },
}
