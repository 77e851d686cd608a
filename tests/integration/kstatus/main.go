// Asks kstatus, which Argo CD's and Flux's health checks follow, what it makes of objects: a JSON list of manifests on
// standard input, one status a line on standard output.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

func main() {
	var manifests []map[string]any
	if err := json.NewDecoder(os.Stdin).Decode(&manifests); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for _, manifest := range manifests {
		result, err := status.Compute(&unstructured.Unstructured{Object: integers(manifest).(map[string]any)})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(result.Status)
	}
}

// Numbers as the API's own decoder makes them: whole ones are int64.
func integers(value any) any {
	switch value := value.(type) {
	case map[string]any:
		for name, each := range value {
			value[name] = integers(each)
		}
	case []any:
		for number, each := range value {
			value[number] = integers(each)
		}
	case float64:
		if value == float64(int64(value)) {
			return int64(value)
		}
	}
	return value
}
