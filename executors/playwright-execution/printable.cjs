// What specs and errors say, fit to be shown: no colours of a terminal, no halves of a character.
const { stripVTControlCharacters } = require('node:util');

module.exports = (value) =>
  JSON.stringify(value, (_, part) =>
    typeof part === 'string' ? stripVTControlCharacters(Buffer.from(part).toString()) : part,
  );
