package control

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMetricsSayThatTheControlPlaneIsDown(t *testing.T) {
	var h health
	w := httptest.NewRecorder()
	metrics(h.collector()).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	require.Equal(t, http.StatusOK, w.Code)
	require.Contains(t, w.Body.String(), "understudy_control_up 0\n")
}
