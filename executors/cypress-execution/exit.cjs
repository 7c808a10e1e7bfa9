'use strict'
// Loaded into the process in which Cypress runs the student's configuration, before it does.
//
// Cypress waits forever for a configuration that has ended that process, by `process.exit()` for example. It would use
// up the task's time, and end as a timeout that says nothing.

if (process.argv[1]?.endsWith('require_async_child.js')) {
  process.on('exit', () => {
    if (!process.connected) return // Cypress itself has ended it
    process._rawDebug('The configuration ended its process, so Cypress cannot go on: remove process.exit() from it.')
    process.kill(process.ppid)
  })
}
