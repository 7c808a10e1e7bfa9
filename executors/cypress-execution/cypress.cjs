'use strict'
// Runs Cypress in the current directory, the student's copy of the submission, as the student's user:
//
//     node cypress.cjs FD        # writes the result of `cypress.run()`, as JSON, to the file descriptor FD

const fs = require('node:fs')
const path = require('node:path')
const cypress = require('cypress')

// What Cypress insists on is added where the submission does without.
const DEFAULTS = [
  { folder: '.', like: /^cypress(\.config\.(ts|[cm]?js)|\.json)$/, name: 'cypress.config.cjs', text: 'module.exports = { e2e: {} }\n' },
  { folder: 'cypress/support', like: /^e2e\./, name: 'e2e.js', text: '' },
  {
    folder: '.',
    like: /^tsconfig\.json$/,
    name: 'tsconfig.json',
    text: '{ "compilerOptions": { "baseUrl": ".", "target": "es2021", "types": ["cypress"] }, "include": ["**/*.ts"] }\n',
  },
]

for (const { folder, like, name, text } of DEFAULTS) {
  fs.mkdirSync(folder, { recursive: true })
  if (!fs.readdirSync(folder).some((there) => like.test(there))) fs.writeFileSync(path.join(folder, name), text)
}

process.env.NODE_OPTIONS = `--require ${path.join(__dirname, 'exit.cjs')}` // Cypress hands it on to the configuration
cypress
  .run({ config: { video: false, trashAssetsBeforeRuns: true, screenshotsFolder: 'cypress/screenshots' } })
  .then((result) => fs.writeFileSync(Number(process.argv[2]), JSON.stringify(result)))
