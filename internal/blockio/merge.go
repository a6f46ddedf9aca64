package blockio

// Merger joins neighbouring extents of one kind, so that an adapter can feed it
// whatever pieces its pages happen to hold and still keep Mapper's promise. It holds
// back one extent. The zero value is not usable: set Visit.
type Merger struct {
	// Visit receives the merged extents.
	Visit func(Extent) error
	held  Extent
}

// Add takes the next extent; extents of length 0 are dropped. Extents must be given in
// order and without gaps: one that does not start where the last ended starts anew.
func (m *Merger) Add(e Extent) error {
	switch {
	case e.Length <= 0:
		return nil
	case m.held.Length > 0 && m.held.Kind == e.Kind && m.held.End() == e.Offset:
		m.held.Length += e.Length
		return nil
	}
	held := m.held
	m.held = e
	if held.Length == 0 {
		return nil
	}
	return m.Visit(held)
}

// Finish hands out the extent held back, if any.
func (m *Merger) Finish() error {
	held := m.held
	m.held = Extent{}
	if held.Length == 0 {
		return nil
	}
	return m.Visit(held)
}
