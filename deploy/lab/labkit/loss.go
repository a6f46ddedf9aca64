package labkit

import "time"

// Loss is what a failover cost, measured by the watcher outside and not by the software under test.
type Loss struct {
	RowsAcknowledged int64   `json:"rows_acknowledged"` // highest row promised before the crash
	RowsRecovered    int64   `json:"rows_recovered"`    // highest row in the database after it
	RowsLost         int64   `json:"rows_lost"`
	RPO              float64 `json:"rpo_s"` // from the acknowledgement of the last recovered row to the last one before the crash
	RTO              float64 `json:"rto_s"` // from the last acknowledgement before to the first after
}

// Measure compares what was promised on the old host with what the check on the new host found. Rows that were
// committed but whose acknowledgement was never seen may be recovered too: the loss is then zero, not negative.
func Measure(w *Watcher, oldHost, newHost string, check Check, first Ack) Loss {
	last, _ := w.LastAck(oldHost)
	l := Loss{
		RowsAcknowledged: last.Row, RowsRecovered: check.Rows,
		RowsLost: max(0, last.Row-check.Rows),
		RTO:      first.At.Sub(last.At).Seconds(),
	}
	if l.RowsLost > 0 {
		l.RPO = last.At.Sub(recoveredAt(w, oldHost, check.Rows, last.At)).Seconds()
	}
	return l
}

func recoveredAt(w *Watcher, host string, row int64, fallback time.Time) time.Time {
	if a, ok := w.AckOf(host, row); ok {
		return a.At
	}
	// The first acknowledged row that was lost is at most one row later: a lower bound that never flatters.
	for _, a := range w.Acks() {
		if a.Host == host {
			return a.At
		}
	}
	return fallback
}
