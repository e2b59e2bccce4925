package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"converge/engine/disk"
	"converge/engine/recipe"
)

func (a *app) fmtCommand() *cobra.Command {
	var check bool
	c := &cobra.Command{
		Use:   "fmt [FILE|DIR]...",
		Short: "Write recipes in their usual form",
		Long: `Write recipes in their usual form: aligned, with two blanks for each level. A folder stands for the *.hcl files in it.
Without arguments it is the folder in which you are.`,
		Example: `  converge fmt
  converge fmt --check recipes/`,
		RunE: func(_ *cobra.Command, args []string) error { return a.format(args, check) },
	}
	c.Flags().BoolVar(&check, "check", false, "change nothing; name the files that are not in their usual form, and exit with 1")
	return c
}

func (a *app) format(args []string, check bool) error {
	if len(args) == 0 {
		args = []string{"."}
	}
	files, err := recipeFiles(args)
	if err != nil {
		return err
	}
	d, err := disk.Open("/")
	if err != nil {
		return err
	}
	defer d.Close()
	different := 0
	for _, name := range files {
		changed, err := formatFile(d, name, check)
		if err != nil {
			return err
		}
		if changed {
			different++
			fmt.Fprintln(a.stdout, name)
		}
	}
	if check && different > 0 {
		fmt.Fprintf(a.stderr, "converge: hint: converge fmt writes %s in the usual form\n", count(different, "file", "files"))
		return silentError(exitFailed)
	}
	return nil
}

func recipeFiles(args []string) ([]string, error) {
	var files []string
	for _, arg := range args {
		info, err := os.Stat(arg)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s does not exist", arg)
		}
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			files = append(files, arg)
			continue
		}
		found, err := filepath.Glob(filepath.Join(arg, "*.hcl"))
		if err != nil {
			return nil, err
		}
		files = append(files, found...)
	}
	return files, nil
}

// formatFile rewrites one file, if its form is not the usual one. Its mode and owner stay.
func formatFile(d *disk.Disk, name string, check bool) (changed bool, err error) {
	abs, err := filepath.Abs(name)
	if err != nil {
		return false, err
	}
	old, info, err := d.ReadFile(abs, recipe.MaxFileBytes)
	if err != nil {
		return false, err
	}
	fresh, files, diags := recipe.FormatSource(recipe.Source{Name: name, Bytes: old})
	if diags.HasErrors() {
		return false, &diagnosticsError{diags, files}
	}
	if check || bytes.Equal(old, fresh) {
		return !bytes.Equal(old, fresh), nil
	}
	staged, err := d.Stage(disk.File{Path: abs, Content: fresh, Mode: info.Mode, UID: info.UID, GID: info.GID, Temp: fmt.Sprintf(".converge-fmt-%d", os.Getpid())})
	if err != nil {
		return false, err
	}
	if err := staged.Switch(disk.BeforeOf(old, info)); err != nil {
		return false, errors.Join(err, staged.Discard())
	}
	return true, nil
}
