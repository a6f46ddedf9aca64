package contract

import "understudy/internal/model"

// MarksIn asks a host for all that Understudy left there, after it has removed what is named: the same mark must still be
// there, and nothing is removed that is in use.
type MarksIn struct {
	Remove []model.Mark `json:"remove,omitempty"`
}

// MarksOut is the answer.
type MarksOut struct {
	Marks   []model.Mark `json:"marks"`
	Removed []model.Mark `json:"removed"`
	// Failed says what could not be removed, and why.
	Failed []string `json:"failed"`
}

// Marks of a host; the update reaches it through the host's watch.
var (
	ListMarks = Activity[MarksIn, MarksOut]{"marks", hostOptions(120, 6, 2)}
	UpdMarks  = Update[MarksIn, MarksOut]{"marks"}
)
