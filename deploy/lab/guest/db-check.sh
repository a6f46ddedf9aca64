# shellcheck shell=dash disable=SC1091
# Checks the database as a user would after a crash: structure, no row missing, no row torn, and with a second disk that
# both are from one instant: each row goes to vda first and is then counted on vdb, so the counter is the last row or one less.
. /lab/schema.sh
{
  open_sql
  echo "PRAGMA main.integrity_check;"
  echo "SELECT 'rows '||count(*)||' '||coalesce(min(id),1)||' '||coalesce(max(id),0)||' '||
    coalesce(sum(tag IS NOT substr(payload,1,8)||substr(payload,-8)),0) FROM log;"
  if [ -b /dev/vdb ]; then
    echo "PRAGMA c.integrity_check;"
    echo "SELECT 'counter '||n FROM c.counter;"
  fi
} | sqlite3 -batch -bail "$DB" >/run/check 2>&1
code=$?

verdict=ok why="" rows=0
bad() { verdict=bad why="$why; $*"; }
[ $code = 0 ] || bad "sqlite3 ended with $code: $(tail -n 1 /run/check)"
want=1
[ ! -b /dev/vdb ] || want=2
[ "$(grep -cx ok /run/check)" = $want ] || bad "integrity_check: $(grep -v -e ^rows -e ^counter /run/check | head -n 1)"
# shellcheck disable=SC2046 # split on purpose
set -- $(grep '^rows ' /run/check)
rows=${2:-0} first=${3:-1} last=${4:-0} torn=${5:-0}
if [ "$first" != 1 ] || [ "$last" != "$rows" ]; then bad "rows $first..$last, but $rows of them"; fi
[ "$torn" = 0 ] || bad "$torn torn rows"
if [ -b /dev/vdb ]; then
  counter=$(sed -n 's/^counter //p' /run/check)
  [ "${counter:--1}" = "$rows" ] || [ "${counter:--1}" = $((rows - 1)) ] || bad "counter ${counter:-missing} on vdb"
  why="$why; counter=$counter"
fi
echo "DB-CHECK $verdict rows=$rows${why:+ (${why#; })}"
[ $verdict = ok ]
