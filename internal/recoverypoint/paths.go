package recoverypoint

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"understudy/internal/model"
)

// Names inside the folder of one VM. Every folder that holds images lies two levels below it, so that one relative
// backing name (backingName) is right from each of them and the whole folder can be moved.
const (
	chainFile   = "chain.json"
	planFile    = "plan.json"
	pointsDir   = "points"
	disksDir    = "disks"
	stagingDir  = "staging"
	holdsDir    = "holds"
	activeDir   = "active"
	digestsFile = "digests"
	specFile    = "spec.json"

	lockFile  = ".lock"
	runDir    = ".run"
	trashMark = ".trash-"
)

var (
	refPattern   = regexp.MustCompile(`^g([0-9]{1,19})-s([0-9]{1,19})$`)
	layerPattern = regexp.MustCompile(`^(base-)?g[0-9]{1,19}-s[0-9]{1,19}\.(raw|qcow2)$`)
	pointPattern = regexp.MustCompile(`^([0-9]{1,20})\.json$`)
	namePattern  = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
)

// home is the folder of one VM.
type home string

func (h home) chain() string                    { return filepath.Join(string(h), chainFile) }
func (h home) plan() string                     { return filepath.Join(string(h), planFile) }
func (h home) points() string                   { return filepath.Join(string(h), pointsDir) }
func (h home) point(s model.Seq) string         { return filepath.Join(h.points(), fmt.Sprintf("%d.json", s)) }
func (h home) disk(target string) string        { return filepath.Join(string(h), disksDir, target) }
func (h home) layer(target, file string) string { return filepath.Join(h.disk(target), file) }
func (h home) digests(target string) string     { return filepath.Join(h.disk(target), digestsFile) }
func (h home) stagings() string                 { return filepath.Join(string(h), stagingDir) }
func (h home) staging(p model.PointRef) string  { return filepath.Join(h.stagings(), p.String()) }
func (h home) holds() string                    { return filepath.Join(string(h), holdsDir) }
func (h home) hold(name string) string          { return filepath.Join(h.holds(), name+".json") }
func (h home) active(name string) string        { return filepath.Join(string(h), activeDir, name) }

// inStaging are the files of one disk of a staging area.
func inStaging(dir, target, what string) string { return filepath.Join(dir, target+"."+what) }

// layerName is the file a point's layer of a disk gets in the chain.
func layerName(p model.PointRef, mode model.DiskMode) string {
	if mode == model.ModeFull {
		return "base-" + p.String() + ".raw"
	}
	return p.String() + ".qcow2"
}

// layerFormat reads the format off a layer's name.
func layerFormat(file string) model.DiskFormat {
	if strings.HasSuffix(file, ".raw") {
		return model.FormatRaw
	}
	return model.FormatQCOW2
}

// backingName is how an image of the store names a layer below it.
func backingName(target, file string) string { return "../../" + disksDir + "/" + target + "/" + file }

func parseRef(name string) (model.PointRef, bool) {
	if !refPattern.MatchString(name) {
		return model.PointRef{}, false
	}
	return model.ParseMark(model.MarkPrefix + name)
}

// validName says whether s may name a hold or a set of active overlays.
func validName(s string) bool { return namePattern.MatchString(s) }
