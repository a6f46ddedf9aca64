# shellcheck shell=dash disable=SC1091
# Commits rows and promises each on the console once it is durable. One sqlite3 does it all: it prints the promise itself,
# straight to the terminal, after the statements before it have succeeded; at an error it ends and promises nothing.
. /lab/schema.sh
pause=$(awk "BEGIN {print 1 / $RATE}")
row="INSERT INTO log(payload) VALUES(hex(randomblob(150)));"
[ ! -b /dev/vdb ] || row="$row UPDATE c.counter SET n=(SELECT max(id) FROM log);"
row="$row SELECT 'ACK '||max(id)||' '||CAST((julianday('now')-2440587.5)*86400000 AS INTEGER) FROM log;"

rm -f /run/sql
mkfifo /run/sql
sqlite3 -batch -bail "$DB" </run/sql >/dev/ttyS0 2>&1 &
sql=$!
exec 3>/run/sql
trap '' PIPE
open_sql >&3
while kill -0 $sql 2>/dev/null; do
  echo "$row" >&3 2>/dev/null || break
  sleep "$pause"
done
wait $sql
echo "DB-ERROR sqlite3 ended with $?"
