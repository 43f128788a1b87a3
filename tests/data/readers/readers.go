// Go's standard library as a reader: a line of JSON in for each body, a line of what was read out.
package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
)

type asked struct {
	Type string `json:"type"`
	Body []byte `json:"body"` // base64
}

type reading struct {
	Reader string              `json:"reader"`
	Picks  string              `json:"picks"`
	Error  string              `json:"error"`
	Texts  map[string][]string `json:"texts"`
	Files  map[string][]string `json:"files"`
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func empty(reader string, picks string) reading {
	return reading{Reader: reader, Picks: picks, Texts: map[string][]string{}, Files: map[string][]string{}}
}

// The parts as a program sees them that walks through the form.
func parts(one asked) reading {
	read := empty("go mime/multipart", "last")
	_, parameters, err := mime.ParseMediaType(one.Type)
	if err != nil {
		read.Error = err.Error()
		return read
	}
	reader := multipart.NewReader(bytes.NewReader(one.Body), parameters["boundary"])
	for {
		part, err := reader.NextPart()
		if err == io.EOF {
			return read
		}
		if err != nil {
			read.Error = err.Error()
			return read
		}
		data, err := io.ReadAll(part)
		if err != nil {
			read.Error = err.Error()
			return read
		}
		if part.FileName() != "" {
			read.Files[part.FormName()] = append(read.Files[part.FormName()], digest(data))
		} else {
			read.Texts[part.FormName()] = append(read.Texts[part.FormName()], string(data))
		}
	}
}

// The form as a net/http server hands it to its program.
func form(one asked) reading {
	read := empty("go net/http", "first")
	request, err := http.NewRequest("POST", "/", bytes.NewReader(one.Body))
	if err == nil {
		request.Header.Set("Content-Type", one.Type)
		err = request.ParseMultipartForm(64 << 20)
	}
	if err != nil {
		read.Error = err.Error()
		return read
	}
	for name, values := range request.MultipartForm.Value {
		read.Texts[name] = values
	}
	for name, files := range request.MultipartForm.File {
		for _, header := range files {
			file, err := header.Open()
			if err != nil {
				read.Error = err.Error()
				return read
			}
			data, _ := io.ReadAll(file)
			read.Files[name] = append(read.Files[name], digest(data))
		}
	}
	return read
}

// An order as most Go programs decode it: names match whatever their case, the last one wins.
type order struct {
	Model   json.RawMessage `json:"model"`
	N       json.RawMessage `json:"n"`
	Size    json.RawMessage `json:"size"`
	Quality json.RawMessage `json:"quality"`
	Prompt  json.RawMessage `json:"prompt"`
}

func object(one asked) reading {
	read := empty("go encoding/json", "last")
	var got order
	if err := json.Unmarshal(one.Body, &got); err != nil {
		read.Error = err.Error()
		return read
	}
	for name, raw := range map[string]json.RawMessage{
		"model": got.Model, "n": got.N, "size": got.Size, "quality": got.Quality, "prompt": got.Prompt,
	} {
		if raw != nil {
			read.Texts[name] = []string{string(raw)}
		}
	}
	return read
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 64<<20)
	out := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var one asked
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		readings := []reading{}
		if one.Type == "application/json" {
			readings = append(readings, object(one))
		} else {
			readings = append(readings, parts(one), form(one))
		}
		if err := out.Encode(readings); err != nil {
			os.Exit(1)
		}
	}
}
