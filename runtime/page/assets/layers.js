// The table of layers.

function layerTable(view) {
  const total = (value, text) => (rows) => text(sum(rows.map((row) => value(row) ?? 0)));
  const columns = [
    { title: "#", value: (row) => row.index + 1, numeric: true },
    {
      title: "layer",
      value: (row) => row.name,
      text: (row) => [swatch(view.look(row.name)), html("span", { class: "mono" }, row.name)],
    },
    { title: "neurons are", value: (row) => row.kind },
    { title: "shape", value: (row) => times(row.place?.shape ?? row.node.shape) },
    {
      title: "neurons",
      value: (row) => row.neurons,
      text: (row) => whole(row.neurons),
      numeric: true,
      bar: true,
      total: total((row) => row.neurons, whole),
    },
    {
      title: "bits",
      value: (row) => row.bits,
      numeric: true,
      hint: "of the widest weights of the synapses into this layer",
    },
    {
      title: "SQNR, dB",
      value: (row) => row.sqnr,
      text: (row) => row.sqnr.toFixed(1),
      numeric: true,
      hint: "the ratio of its weights to their rounding errors; the worst of its synapses",
    },
  ];
  const { placement, cost } = view.build;
  if (view.rates.size)
    columns.push({
      title: "fires",
      value: (row) => row.firing,
      text: (row) => percent(row.firing),
      numeric: true,
      bar: true,
      hint: "the part of its neurons that fire at a step, on average",
    });
  if (placement) {
    columns.push(
      {
        title: "cores",
        value: (row) => row.place.cores,
        text: (row) => whole(row.place.cores),
        numeric: true,
        bar: true,
        total: total((row) => row.place.cores, whole),
      },
      {
        title: "bound by",
        value: (row) => row.place.bound,
        text: (row) => row.place.bound,
        hint: "the resource that alone would ask for the most cores",
      },
      {
        title: "used",
        value: (row) => row.place.utilization[row.place.bound],
        text: (row) => percent(row.place.utilization[row.place.bound], 2),
        numeric: true,
        hint: "of that resource, in the fullest core",
      },
    );
  }
  if (cost) {
    columns.push(
      {
        title: "SOPs",
        value: (row) => row.sops,
        text: (row) => scaled(row.sops),
        numeric: true,
        bar: true,
        total: total((row) => row.sops, scaled),
        hint: "synaptic operations of a sample, as the authors count them",
      },
      {
        title: "updates",
        value: (row) => row.charge?.updates,
        text: (row) => scaled(row.charge.updates),
        numeric: true,
        bar: true,
        total: total((row) => row.charge?.updates, scaled),
        hint: "neuron updates of a sample",
      },
      {
        title: "messages",
        value: (row) => row.charge?.messages,
        text: (row) => scaled(row.charge.messages),
        numeric: true,
        bar: true,
        total: total((row) => row.charge?.messages, scaled),
        hint: "spikes that arrive at its cores, of a sample",
      },
      {
        title: "energy",
        value: (row) => row.energy,
        text: (row) => energy(row.energy),
        numeric: true,
        bar: true,
        total: total((row) => row.energy, energy),
        hint: "dynamic, of a sample",
      },
      {
        title: "step",
        value: (row) => row.charge?.step_ns,
        text: (row) => duration(row.charge.step_ns),
        numeric: true,
        bar: true,
        hint: "what its busiest step takes",
      },
    );
  }
  return sortable(columns, view.layers, { class: "layers", label: "layers", tall: true, row: (row) => ({ "data-layer": row.name }) });
}
