import { defineConfig } from 'cypress'

export default defineConfig({
  e2e: {
    setupNodeEvents(on: Cypress.PluginEvents) {
      on('before:run', () => console.log('the configuration is TypeScript, too'))
    },
  },
})
