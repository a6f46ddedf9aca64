package policy

import (
	"bytes"
	"encoding/json"
)

// Schema is the JSON schema of a policy file, for editors. It says what each field may hold; the contradictions between
// fields only the parser finds.
func Schema() []byte {
	root := object(top())
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "understudy policy file"
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(root); err != nil {
		return nil // maps of strings and numbers encode
	}
	return b.Bytes()
}

func object(fields []field) map[string]any {
	properties, required := map[string]any{}, []string{}
	for _, f := range fields {
		if f.unkept != "" {
			continue
		}
		properties[f.name] = f.schema()
		if f.needed {
			required = append(required, f.name)
		}
	}
	o := map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		o["required"] = required
	}
	return o
}

func (f field) schema() map[string]any {
	var s map[string]any
	switch {
	case f.list:
		item := map[string]any{"type": "string", "enum": f.enum}
		switch {
		case f.inner != nil:
			item = object(f.inner)
		case f.pattern != nil:
			item = map[string]any{"type": "string", "pattern": f.pattern.String()}
		}
		s = map[string]any{"type": "array", "items": item, "minItems": 1, "maxItems": f.limit, "uniqueItems": !f.repeats}
	case f.pairs:
		word := map[string]any{"type": "string", "pattern": f.pattern.String()}
		s = map[string]any{"type": "object", "additionalProperties": word, "propertyNames": map[string]any{"pattern": f.pattern.String()}, "minProperties": 1, "maxProperties": f.limit}
	case f.inner != nil && f.enum != nil:
		s = map[string]any{"anyOf": []any{map[string]any{"type": "string", "enum": f.enum}, object(f.inner)}}
	case f.inner != nil:
		s = object(f.inner)
	case f.max > 0:
		s = map[string]any{"type": "integer", "minimum": f.min, "maximum": f.max}
	case f.enum != nil:
		s = map[string]any{"type": "string", "enum": f.enum}
	default:
		s = map[string]any{"type": "string", "pattern": f.pattern.String()}
	}
	s["description"] = f.doc
	return s
}
