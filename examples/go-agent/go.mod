module example.com/go-agent

go 1.19

require portcullis v0.0.0

replace portcullis => ../../crates/ffi/go
