// PouchDB's server with its data in memory; prints its port. With an argument it takes that port.
//
// Only what a peer uses is loaded: the parts about users and sessions do not start on a recent
// Node.js.
'use strict';

const express = require('express');
const PouchDB = require('pouchdb-core')
  .plugin(require('pouchdb-adapter-memory'))
  .plugin(require('pouchdb-mapreduce'));

const app = express();
app.use('/', require('express-pouchdb')(PouchDB, {
  mode: 'minimumForPouchDB',
  overrideMode: {include: ['routes/find']},
  inMemoryConfig: true,
}));
const server = app.listen(Number(process.argv[2] || 0), '127.0.0.1', () => {
  console.log(server.address().port);
});
// It ends with whoever started it, however that ends.
process.stdin.on('end', () => process.exit(0)).resume();
