package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWriteJSONReplacesWholeFileAndLeavesNoTemporary(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "record.json")
	require.NoError(t, WriteJSON(path, map[string]int{"a": 1}))
	require.NoError(t, WriteJSON(path, map[string]int{"b": 2}))

	var got map[string]int
	require.NoError(t, ReadJSON(path, &got))
	require.Equal(t, map[string]int{"b": 2}, got)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
}

func TestReadJSONTellsMissingDamagedAndHuge(t *testing.T) {
	dir := t.TempDir()
	var v any
	require.ErrorIs(t, ReadJSON(filepath.Join(dir, "none"), &v), fs.ErrNotExist)

	damaged := filepath.Join(dir, "damaged")
	require.NoError(t, os.WriteFile(damaged, []byte(`{"a":`), 0o600))
	err := ReadJSON(damaged, &v)
	require.Error(t, err)
	require.False(t, errors.Is(err, fs.ErrNotExist))

	huge := filepath.Join(dir, "huge")
	require.NoError(t, os.WriteFile(huge, make([]byte, MaxFile+1), 0o600))
	require.ErrorContains(t, ReadJSON(huge, &v), "larger than")
}

func TestWriteFileKeepsTheOldContentWhenItCannotWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "missing-folder", "f")
	require.Error(t, WriteFile(path, []byte("x")))
	require.NoFileExists(t, path)
}

func TestRemoveTwiceSucceeds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	require.NoError(t, WriteFile(path, []byte("x")))
	require.NoError(t, Remove(path))
	require.NoError(t, Remove(path))
}
