module.exports = {
  e2e: {
    supportFile: false,
    setupNodeEvents() {
      process.exit(0)
    },
  },
}
