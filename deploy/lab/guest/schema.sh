# shellcheck shell=dash disable=SC2034 # for those who source it
# Sourced by the database scripts. Each statement commits by itself; FULL makes a commit wait for the disk, also in WAL.
DB=/data/db.sqlite
COUNTER=/data2/counter.sqlite
open_sql() {
  echo ".output /dev/null"
  echo "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
  # The tag ties a row's two ends together, so a row torn at a page's edge is told from a whole one.
  echo "CREATE TABLE IF NOT EXISTS log(id INTEGER PRIMARY KEY, payload TEXT NOT NULL,
    tag TEXT GENERATED ALWAYS AS (substr(payload,1,8)||substr(payload,-8)) STORED);"
  if [ -b /dev/vdb ]; then
    echo "ATTACH '$COUNTER' AS c; PRAGMA c.journal_mode=WAL; PRAGMA c.synchronous=FULL;"
    echo "CREATE TABLE IF NOT EXISTS c.counter(n INTEGER NOT NULL);"
    echo "INSERT INTO c.counter SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM c.counter);"
  fi
  echo ".output stdout"
}
