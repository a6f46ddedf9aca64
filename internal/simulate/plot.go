package simulate

import (
	"fmt"
	"html"
	"io"
	"math"
	"strings"
)

const (
	plotWidth, plotHeight = 960.0, 240.0
	plotLeft, plotTop     = 70.0, 50.0
	plotGap               = 70.0
)

var plotColours = []string{"#1b6ca8", "#c0392b", "#7d8a2e", "#8e44ad", "#d68910", "#566573"}

// Plot draws exposure and cycles over time of results that kept their trail, the same as an SVG of bounded size: each
// column of pixels shows the largest exposure within its time.
func Plot(w io.Writer, title string, results []Result) error {
	var b strings.Builder
	height := plotTop + 2*plotHeight + plotGap + 50
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" font-family="sans-serif" font-size="12">`+"\n", plotLeft+plotWidth+30, height)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/><text x="%g" y="20" font-size="15">%s</text>`+"\n", plotLeft, html.EscapeString(title))
	if len(results) > 0 {
		exposures(&b, results)
		cycles(&b, results, plotTop+plotHeight+plotGap)
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func exposures(b *strings.Builder, results []Result) {
	rpo, seconds := results[0].RPO, results[0].Seconds
	top := rpo * 1.2
	for _, r := range results {
		top = max(top, min(r.Max*1.05, 3*rpo))
	}
	frame(b, plotTop, "exposure, s", top, seconds)
	y := func(e float64) float64 { return plotTop + plotHeight*(1-min(e/top, 1)) }
	fmt.Fprintf(b, `<line x1="%g" x2="%g" y1="%.1f" y2="%.1f" stroke="black" stroke-dasharray="6 4"/><text x="%g" y="%.1f">RPO</text>`+"\n",
		plotLeft, plotLeft+plotWidth, y(rpo), y(rpo), plotLeft+plotWidth+3, y(rpo)+4)
	for i, r := range results {
		columns := r.columns(int(plotWidth))
		var points strings.Builder
		for x, e := range columns {
			fmt.Fprintf(&points, "%.0f,%.1f ", plotLeft+float64(x), y(e))
		}
		fmt.Fprintf(b, `<polyline fill="none" stroke="%s" stroke-width="1" opacity="0.75" points="%s"/>`+"\n", colour(i), strings.TrimSpace(points.String()))
		fmt.Fprintf(b, `<text x="%g" y="38" fill="%s">%s</text>`+"\n", plotLeft+float64(i)*170, colour(i), html.EscapeString(r.Planner))
	}
}

// columns is the largest exposure by column of time.
func (r Result) columns(n int) []float64 {
	out := make([]float64, n)
	raise := func(at, e float64) {
		if i := int(at / r.Seconds * float64(n)); i >= 0 && i < n {
			out[i] = max(out[i], e)
		}
	}
	for _, s := range r.Trail {
		if math.IsInf(s.Oldest, 1) {
			continue
		}
		step := r.Seconds / float64(n)
		for at := s.Oldest; at < s.Verified; at += step {
			raise(at, at-s.Oldest)
		}
		raise(s.Verified, s.Verified-s.Oldest)
	}
	return out
}

func cycles(b *strings.Builder, results []Result, y0 float64) {
	most := 1.0
	for _, r := range results {
		most = max(most, float64(r.Cycles))
	}
	frame(b, y0, "cycles so far", most, results[0].Seconds)
	for i, r := range results {
		var points strings.Builder
		every := max(len(r.Trail)/400, 1)
		for n := 0; n < len(r.Trail); n += every {
			fmt.Fprintf(&points, "%.1f,%.1f ", plotLeft+plotWidth*r.Trail[n].Instant/r.Seconds, y0+plotHeight*(1-float64(n+1)/most))
		}
		fmt.Fprintf(b, `<polyline fill="none" stroke="%s" stroke-width="2" points="%s"/>`+"\n", colour(i), strings.TrimSpace(points.String()))
	}
}

func colour(i int) string { return plotColours[i%len(plotColours)] }

func frame(b *strings.Builder, y0 float64, label string, top, seconds float64) {
	fmt.Fprintf(b, `<rect x="%g" y="%g" width="%g" height="%g" fill="none" stroke="#999"/><text x="%g" y="%g">%s</text>`+"\n",
		plotLeft, y0, plotWidth, plotHeight, plotLeft, y0-5, html.EscapeString(label))
	for i := range 5 {
		share := float64(i) / 4
		fmt.Fprintf(b, `<text x="%g" y="%.1f" text-anchor="end">%.4g</text>`, plotLeft-5, y0+plotHeight*(1-share)+4, top*share)
		fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="middle">%s</text>`+"\n", plotLeft+plotWidth*share, y0+plotHeight+16, clock(seconds*share))
	}
}

func clock(s float64) string {
	if s >= 7200 {
		return fmt.Sprintf("%.3g h", s/3600)
	}
	return fmt.Sprintf("%.3g min", s/60)
}

// Dot is one point of a scatter plot.
type Dot struct {
	X, Y  float64
	Label string
	Group string // dots of a group share a colour; those of one that begins with "fixed" are joined by a line
}

// Scatter draws dots with Y on a logarithmic scale; zeroes lie on the floor.
func Scatter(w io.Writer, title, xLabel, yLabel string, floor float64, dots []Dot) error {
	var b strings.Builder
	left, right, top := math.Inf(1), math.Inf(-1), floor*10
	for _, d := range dots {
		left, right, top = min(left, d.X), max(right, d.X), max(top, d.Y*1.5)
	}
	left, right = left-5, right+15
	const h = 380.0
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" font-family="sans-serif" font-size="12">`+"\n", plotLeft+plotWidth+30, plotTop+h+60)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/><text x="%g" y="20" font-size="15">%s</text><text x="%g" y="%g">%s</text><text x="%g" y="%g" text-anchor="end">%s</text>`+"\n",
		plotLeft, html.EscapeString(title), plotLeft, plotTop-8, html.EscapeString(yLabel), plotLeft+plotWidth, plotTop+h+40, html.EscapeString(xLabel))
	fmt.Fprintf(&b, `<rect x="%g" y="%g" width="%g" height="%g" fill="none" stroke="#999"/>`+"\n", plotLeft, plotTop, plotWidth, h)
	x := func(v float64) float64 { return plotLeft + plotWidth*(v-left)/(right-left) }
	y := func(v float64) float64 {
		return plotTop + h*(1-math.Log(max(v, floor)/floor)/math.Log(top/floor))
	}
	for v := floor; v <= top; v *= 10 {
		text := fmt.Sprintf("%g", v)
		if v == floor {
			text = "0"
		}
		fmt.Fprintf(&b, `<line x1="%g" x2="%g" y1="%.1f" y2="%.1f" stroke="#eee"/><text x="%g" y="%.1f" text-anchor="end">%s</text>`+"\n", plotLeft, plotLeft+plotWidth, y(v), y(v), plotLeft-5, y(v)+4, text)
	}
	for v := math.Ceil(left/20) * 20; v <= right; v += 20 {
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" text-anchor="middle">%+g</text>`+"\n", x(v), plotTop+h+16, v)
	}
	groups := map[string]int{}
	lines := map[string]string{}
	var order []string
	for _, d := range dots {
		if _, seen := groups[d.Group]; !seen {
			groups[d.Group] = len(groups)
			order = append(order, d.Group)
		}
		c := colour(groups[d.Group])
		lines[d.Group] += fmt.Sprintf("%.1f,%.1f ", x(d.X), y(d.Y))
		fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="4" fill="%s"/><text x="%.1f" y="%.1f" fill="%s" font-size="10">%s</text>`+"\n", x(d.X), y(d.Y), c, x(d.X)+6, y(d.Y)-4, c, html.EscapeString(d.Label))
	}
	for i, g := range order {
		if strings.HasPrefix(g, "fixed") {
			fmt.Fprintf(&b, `<polyline fill="none" stroke="%s" stroke-dasharray="2 3" points="%s"/>`+"\n", colour(groups[g]), strings.TrimSpace(lines[g]))
		}
		fmt.Fprintf(&b, `<text x="%g" y="38" fill="%s">%s</text>`+"\n", plotLeft+float64(i)*180, colour(groups[g]), html.EscapeString(g))
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}
